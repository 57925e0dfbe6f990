"""The report is one page that shows every figure, whatever the labels are called."""

from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from service.adapters.manifest import KindName
from service.adapters.methods import Head
from service.engine.base_model import BaseModel
from service.training.data import Example
from service.training.plan import Data
from service.training.report import render
from service.training.run import run
from tests.training.conftest import RECIPE, Run
from tests.training.toys import TOYS, sentiment

every_kind = pytest.mark.parametrize("kind", TOYS)
VOID = ("meta", "polyline", "circle")
NASTY = ('<b>bold</b> & "loud"', "<script>alert(1)</script>")


class Page(HTMLParser):
    """The page's words, and that each of its elements is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: object) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.extend(data.split())

    @property
    def text(self) -> str:
        return " ".join(self.words)


@every_kind
def test_the_page_holds_the_figures(runs: Mapping[KindName, Run], kind: KindName) -> None:
    outcome = runs[kind].outcome
    report, test = outcome.report, outcome.test
    assert test is not None
    page = Page(render(report))
    interval = f"(95 % interval {100 * test.interval.low:.1f} to {100 * test.interval.high:.1f})"
    assert f"{100 * test.value:.1f} {test.metric}, in percent, on 40 test rows {interval}" in page.text
    for name, value in test.others.items():
        assert f"· {name} {100 * value:.1f}" in page.text
    assert ("expected calibration error" in page.text) == (kind == "classification")
    assert f"{report['trained_parameters']:,} trained parameters" in page.text
    assert f"{report['rows']:,} training rows" in page.text
    assert f"epoch {report['best_epoch']} was kept" in page.text
    assert page.tags.count("circle") == 2 * (len(report["curve"]) + 1)
    assert ("By label" in page.text) == bool(report["labels"])
    assert ("Confusions" in page.text) == (kind == "classification")
    for label, counts in test.by_label.items():
        precision, recall, f1 = (f"{100 * value:.1f}" for value in (counts.precision, counts.recall, counts.f1))
        assert f"{label} {counts.hits + counts.missed:.0f} {precision} {recall} {f1}" in page.text


@every_kind
def test_without_a_test_set_validation_is_shown(runs: Mapping[KindName, Run], kind: KindName) -> None:
    report, measured = dict(runs[kind].outcome.report), runs[kind].outcome.validation
    report |= {"test": None, "measured": {"validation": report["measured"]["validation"]}}
    assert f"on {measured.rows} validation rows" in Page(render(report)).text


def test_one_epoch_and_one_value_make_a_curve_too(runs: Mapping[KindName, Run]) -> None:
    report = runs["classification"].outcome.report
    for curve in ([0.5], [0.5, 0.5], [-0.2, 0.0]):
        losses = [(value, float("inf")) for value in curve]
        page = Page(render(report | {"curve": curve, "losses": losses, "best_epoch": len(curve)}))
        assert page.tags.count("circle") == 2 * (len(curve) + 1)


def test_several_runs_are_told(runs: Mapping[KindName, Run]) -> None:
    tried = [{"seed": seed, "learning_rate": 0.01, "validation": 0.5} for seed in (1, 2)]
    page = Page(render(runs["answer"].outcome.report | {"tried": tried}))
    assert "Tried: seed 1 at 0.01: 50.0; seed 2 at 0.01: 50.0." in page.text


def test_names_are_shown_as_they_are_and_never_as_markup(tiny_base: BaseModel, runs: Mapping[KindName, Run]) -> None:
    names = dict(zip(("negative", "positive"), NASTY, strict=True))
    examples = [Example(one.text, None, names[str(one.label)]) for one in sentiment(60, 1)]
    plan = replace(runs["classification"].plan, method=Head(), recipe=replace(RECIPE, epochs=1), test=None)
    outcome = run(tiny_base, plan, Data("classification", examples[:40], examples[40:], []))
    rendered = render(outcome.report)
    page = Page(rendered)
    assert not {"b", "script"} & set(page.tags)
    for name in NASTY:
        assert name not in rendered
        mistakes = sum(name in mistake[:2] for mistake in outcome.validation.mistakes)
        assert page.text.count(name) == 3 + mistakes  # by label, and twice in the table of confusions


def test_fine_tuning_has_a_page_too(tiny_base: BaseModel, runs: Mapping[KindName, Run]) -> None:
    plan, data = runs["tagging"].plan, runs["tagging"].data
    recipe = replace(RECIPE, epochs=1, full=True)
    outcome = run(tiny_base, replace(plan, recipe=recipe, method=Head()), replace(data, training=data.training[:20]))
    assert "tagging, method full" in Page(render(outcome.report)).text
