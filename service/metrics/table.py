"""The table of metrics. A row here is a family in /metrics, a line in docs/metrics.md and a panel of the dashboard."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from time import monotonic
from typing import Any

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest

from service.metrics.busiest import Busiest
from service.metrics.rows import Row, Section

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
POWERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)

ROUND_SECONDS = 600.0  # after so long, the tasks that have a label of their own are chosen anew

REQUESTS, ENGINE, ADAPTERS = Section("Requests"), Section("Engine"), Section("Adapters")
RELEASES = Section("Gradual releases")  # of tasks that have a candidate, while they have it
SERVICE, PROCESS_SECTION = Section("Service"), Section("Process")


class Metrics:
    """Counts for one service: a registry of its own, so that two services in one process do not mix."""

    requests = REQUESTS.counter(
        "rootstock_requests_total",
        "Predict requests by task (empty: none that is served) and outcome: answered, cancelled, failed, or the code "
        "of the refusal. One that asks several tasks counts under each.",
        "task",
        "outcome",
    )
    request_seconds = REQUESTS.histogram(
        "rootstock_request_seconds",
        "From a request's arrival to its answer; of those that were answered.",
        "task",
        buckets=SECONDS,
    )
    request_queue_seconds = REQUESTS.histogram(
        "rootstock_request_queue_seconds",
        "Of that, from admission to the first batch.",
        "task",
        buckets=SECONDS,
    )
    request_engine_seconds = REQUESTS.histogram(
        "rootstock_request_engine_seconds",
        "Of that, in batches. The rest is reading, tokenising, decoding, and waiting between batches.",
        "task",
        buckets=SECONDS,
    )
    inputs = REQUESTS.counter("rootstock_inputs_total", "Inputs that were answered.", "task")
    input_tokens = REQUESTS.counter("rootstock_input_tokens_total", "Tokens of the inputs that were answered.", "task")
    truncated = REQUESTS.counter(
        "rootstock_truncated_inputs_total", "Answered inputs that were longer than their task reads, and cut.", "task"
    )
    refusals = REQUESTS.counter(
        "rootstock_refusals_total", "Answers of any route that are errors, by the code that says why.", "code"
    )
    under_way = REQUESTS.gauge("rootstock_requests_under_way", "Requests of any route that are not answered yet.")

    batch_seconds = ENGINE.histogram("rootstock_batch_seconds", "One batch in the engine.", buckets=SECONDS)
    batch_rows = ENGINE.histogram("rootstock_batch_rows", "Rows in a batch.", buckets=POWERS)
    batch_tokens = ENGINE.histogram("rootstock_batch_tokens", "Tokens in a batch.", buckets=TOKENS)
    batch_tasks = ENGINE.histogram("rootstock_batch_tasks", "Adapters in a batch.", buckets=POWERS)
    rows = ENGINE.counter("rootstock_rows_total", "Rows that the engine has run.", "kind", "method")
    tokens = ENGINE.counter(
        "rootstock_tokens_total", "Tokens that the engine has run, all of them of texts: there is no padding."
    )
    queued_tokens = ENGINE.gauge("rootstock_queued_tokens", "Tokens waiting for the engine.")
    queued_jobs = ENGINE.gauge("rootstock_queued_jobs", "Requests with rows waiting for the engine.")
    queue_limit = ENGINE.gauge("rootstock_queue_limit_tokens", "Tokens that may wait, as the engine's pace has it now.")
    engine_faults = ENGINE.counter("rootstock_engine_faults_total", "Batches that failed in the engine.")
    engine_up = ENGINE.gauge("rootstock_engine_up", "1 while the engine thread runs.")
    running_seconds = ENGINE.gauge("rootstock_batch_running_seconds", "How long the present batch has been running.")

    uploads = ADAPTERS.counter(
        "rootstock_uploads_total",
        "Adapter uploads by outcome: accepted, known (the same bytes again), failed, or the code of the refusal.",
        "outcome",
    )
    upload_seconds = ADAPTERS.histogram(
        "rootstock_upload_seconds", "An accepted upload: read, judged, proved, stored.", buckets=SECONDS
    )
    tasks = ADAPTERS.gauge("rootstock_tasks", "Tasks that are served, without the bare base.")
    refused_adapters = ADAPTERS.gauge(
        "rootstock_refused_adapters", "Versions in the store that cannot be served; the log says why."
    )
    resident_adapters = ADAPTERS.gauge("rootstock_resident_adapters", "Adapter versions in memory.")
    resident_bytes = ADAPTERS.gauge("rootstock_resident_bytes", "Bytes of the adapter versions in memory.")
    adapter_parameters = ADAPTERS.gauge(
        "rootstock_adapter_parameters", "Parameters of the adapters that are served, the sum of |v|."
    )
    load_seconds = ADAPTERS.histogram(
        "rootstock_adapter_load_seconds",
        "Reading a version of the store into memory because a request asked for it.",
        buckets=SECONDS,
    )
    load_failures = ADAPTERS.counter("rootstock_adapter_load_failures_total", "Loads that failed.")
    evictions = ADAPTERS.counter(
        "rootstock_adapter_evictions_total", "Versions let go because others needed their place in memory."
    )
    tasks_behind = ADAPTERS.gauge("rootstock_tasks_behind", "Tasks that their active version does not answer.")
    store_followed = ADAPTERS.gauge("rootstock_store_followed_timestamp_seconds", "When the store was last read.")
    store_free_bytes = ADAPTERS.gauge("rootstock_store_free_bytes", "Free space where the store writes.")

    release_seconds = RELEASES.histogram(
        "rootstock_release_seconds",
        "Answering one request, from its texts to its answers, less the wait for the engine; by version of tasks that "
        "have a candidate.",
        "task",
        "role",
        buckets=SECONDS,
    )
    release_failures = RELEASES.counter(
        "rootstock_release_failures_total",
        "Requests that failed, by version of tasks that have a candidate.",
        "task",
        "role",
    )
    release_inputs = RELEASES.counter(
        "rootstock_release_inputs_total",
        "Inputs that fell to a candidate, by what came of the comparison: agreed, differed, failed, dropped.",
        "task",
        "outcome",
    )

    ready = SERVICE.gauge("rootstock_ready", "1 while the service takes new work.")
    base_parameters = SERVICE.gauge("rootstock_base_parameters", "Parameters of the base, |w|.")
    base_bytes = SERVICE.gauge("rootstock_base_bytes", "Bytes of the base in memory.")
    build = SERVICE.info("rootstock_build", "What runs: version, base, dtype, device and kernels.")

    def __init__(
        self, tasks: int = 50, round_seconds: float = ROUND_SECONDS, clock: Callable[[], float] = monotonic
    ) -> None:
        """
        Args:
            tasks: how many have a label of their own; the busiest, chosen anew after each round.
        """
        self.registry = CollectorRegistry()
        self.families: dict[str, Any] = {row.name: row.make(self.registry) for row in ROWS}
        ProcessCollector(registry=self.registry)
        self._busiest = Busiest(tasks)
        self._round_seconds = round_seconds
        self._clock = clock
        self._chosen = clock()
        self._lock = Lock()  # no label changes hands between asking for it and counting under it
        self._scrape = Lock()  # one at a time; nobody who counts waits for it

    @contextmanager
    def label(self, task: str) -> Iterator[str]:
        """The task's value of label `task`, for what is counted in this block. A use of the task.

        Names that no task has go under the empty label, not through here: anyone can make them up.
        """
        with self._lock:
            yield self._busiest.label(task)

    def render(self) -> bytes:
        """The exposition, in Prometheus' text format.

        A change of labels happens here: what was scraped is the last of the one series and the first of the other, so
        a scraper that goes on from it misses nothing between them.
        """
        with self._scrape:
            due = self._clock() - self._chosen >= self._round_seconds
            collected = self._change() if due else self._collect()
        return generate_latest(collected)

    def _collect(self) -> "_Collected":
        return _Collected(list(self.registry.collect()))

    def _change(self) -> "_Collected":
        """Has labels change hands; collects before the series of those that lost theirs are gone."""
        with self._lock:
            self._chosen = self._clock()
            changes = self._busiest.choose()
            for _, task in changes:
                for row in BUSIEST:
                    if row.labels == ("task",):
                        self.families[row.name].labels(task)
            collected = self._collect()
            for task, _ in changes:
                for row in BUSIEST:
                    self.families[row.name].remove_by_labels({"task": task})
        return collected


class _Collected:
    """What was collected, less the times at which series began, which would be series of their own."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


ROWS: tuple[Row[Any], ...] = tuple(row for row in vars(Metrics).values() if isinstance(row, Row))
BUSIEST = tuple(row for row in ROWS if row.section == REQUESTS.title and "task" in row.labels)  # and the rest as one

# prometheus_client adds these by itself, on Linux.
PROCESS: tuple[Row[Any], ...] = (
    PROCESS_SECTION.counter("process_cpu_seconds_total", "Processor time of the process, user and system."),
    PROCESS_SECTION.gauge("process_resident_memory_bytes", "Memory of the process that is in use."),
    PROCESS_SECTION.gauge("process_virtual_memory_bytes", "Memory that the process has reserved."),
    PROCESS_SECTION.gauge("process_open_fds", "Open files and sockets."),
    PROCESS_SECTION.gauge("process_max_fds", "Open files and sockets at most."),
    PROCESS_SECTION.gauge("process_start_time_seconds", "When the process began, in seconds since 1970."),
)
