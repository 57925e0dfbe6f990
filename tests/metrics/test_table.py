"""What is scraped is what happened, whichever tasks have a label of their own; and the table keeps to conventions."""

import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import OTHER, PROCESS, ROWS, Metrics, Row
from service.metrics.busiest import MORE

Series = dict[tuple[str, ...], float]
TASKS = st.sampled_from([f"task-{number}" for number in range(6)])


class Scraper:
    """Adds up each series as Prometheus does: a value that fell, or began, counts from nothing."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.last: Series = {}
        self.risen: Series = {}

    def scrape(self) -> None:
        found = dict(self._series())
        for series, value in found.items():
            before = self.last.get(series, 0.0)
            if value < before:  # it ended, and begins again
                assert value == 0
                assert OTHER not in series
                before = 0.0
            self.risen[series] = self.risen.get(series, 0.0) + value - before
        self.last = found

    def total(self, name: str) -> float:
        return sum(value for series, value in self.risen.items() if series[0] == name)

    def _series(self) -> Iterator[tuple[tuple[str, ...], float]]:
        for family in text_string_to_metric_families(self.metrics.render().decode()):
            for sample in family.samples:
                if "task" in sample.labels:
                    yield (sample.name, *sorted(sample.labels.values())), sample.value


def ask(metrics: Metrics, task: str, seconds: float = 0.25) -> str:
    with metrics.label(task) as label:
        metrics.requests.labels(label, "answered").inc()
        metrics.request_seconds.labels(label).observe(seconds)
    return label


@given(
    st.integers(0, 3),
    st.lists(
        st.one_of(TASKS.map(lambda task: [task] * (MORE + 1)), TASKS.map(lambda task: [task]), st.none()), max_size=60
    ),
)
def test_the_increase_over_all_labels_is_what_happened_whatever_the_cap(
    most: int, events: list[list[str] | None]
) -> None:
    metrics = Metrics(tasks=most, round_seconds=0.0)  # labels may change hands at every scrape
    scraper, asked = Scraper(metrics), 0
    for tasks in events:
        if tasks is None:
            scraper.scrape()
            assert (
                len({series[-1] for series in scraper.last if series[0] == "rootstock_request_seconds_count"})
                <= most + 1
            )
        for task in tasks or ():
            ask(metrics, task)
            asked += 1
    scraper.scrape()
    assert scraper.total("rootstock_requests_total") == asked
    assert scraper.total("rootstock_request_seconds_count") == asked
    assert scraper.total("rootstock_request_seconds_sum") == 0.25 * asked


def test_nothing_is_lost_while_several_threads_count_and_labels_change_hands() -> None:
    metrics = Metrics(tasks=2, round_seconds=0.0)
    scraper = Scraper(metrics)

    def count(first: int) -> None:
        for number in range(300):
            for _ in range(first + 1):
                ask(metrics, f"task-{(first + number // 50) % 6}")

    with ThreadPoolExecutor(4) as pool:
        counting = [pool.submit(count, first) for first in range(4)]
        while not all(future.done() for future in counting):
            scraper.scrape()
        for future in counting:
            future.result()
    scraper.scrape()
    assert scraper.total("rootstock_request_seconds_count") == 300 * (1 + 2 + 3 + 4)


@given(st.integers(1, 3), st.lists(TASKS, max_size=60))
def test_each_task_that_keeps_its_label_is_counted_exactly(most: int, events: list[str]) -> None:
    metrics, counted = Metrics(tasks=most), Counter[str]()
    for task in events:
        counted[ask(metrics, task)] += 1
    assert sum(counted.values()) == len(events)
    for label, times in counted.items():
        assert metrics.registry.get_sample_value("rootstock_request_seconds_count", {"task": label}) == times
        assert label == OTHER or times == events.count(label)


def test_a_series_that_ends_was_scraped_to_its_end_and_the_next_begins_at_nothing() -> None:
    now = 0.0
    metrics = Metrics(tasks=1, round_seconds=600, clock=lambda: now)
    scraper = Scraper(metrics)
    ask(metrics, "old")
    for _ in range(20):
        assert ask(metrics, "new") == OTHER
    now = 599
    scraper.scrape()
    assert scraper.last["rootstock_request_seconds_count", "old"] == 1
    ask(metrics, "old")
    now = 600
    scraper.scrape()
    assert scraper.last["rootstock_request_seconds_count", "old"] == 2
    assert scraper.last["rootstock_request_seconds_count", "new"] == 0
    assert ask(metrics, "new") == "new"
    assert ask(metrics, "old") == OTHER
    scraper.scrape()
    assert not [series for series in scraper.last if "old" in series]
    assert scraper.last["rootstock_request_seconds_count", "new"] == 1


def test_a_release_keeps_its_series_whoever_has_a_label() -> None:
    metrics = Metrics(tasks=1, round_seconds=0)
    ask(metrics, "old")
    metrics.release_failures.labels("old", "candidate").inc()
    for _ in range(MORE + 3):
        ask(metrics, "new")
    metrics.render()
    assert ask(metrics, "new") == "new"
    labels = {"task": "old", "role": "candidate"}
    assert metrics.registry.get_sample_value("rootstock_release_failures_total", labels) == 1


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_follows_prometheus_conventions(row: Row[Any]) -> None:
    assert re.fullmatch(r"rootstock_[a-z]+(_[a-z]+)*", row.name)
    assert row.name.endswith("_total") == (row.kind == "counter")
    assert row.help[0].isupper() or row.help[0].isdigit()
    assert row.help.endswith(".")
    assert bool(row.buckets) == (row.kind == "histogram")
    assert list(row.buckets) == sorted(row.buckets)
    assert not re.search(r"_(ms|milliseconds|kb|mb|minutes|percent)\b", row.name)


def test_the_process_rows_are_what_the_library_adds() -> None:
    collected = {family.name: family.type for family in ProcessCollector(registry=CollectorRegistry()).collect()}
    assert {row.name.removesuffix("_total"): row.kind for row in PROCESS} == collected


def test_labels_that_anyone_can_make_up_are_bounded() -> None:
    assert {label for row in ROWS for label in row.labels} <= {"task", "outcome", "code", "kind", "method", "role"}
