"""What Prometheus scrapes. One object, made by `create_app`, handed to whoever counts."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
POWERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


class Metrics:
    """A registry of its own, so that two services in one process do not mix."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "rootstock_requests",
            "Predict requests by task (empty: none that is served) and outcome.",
            ["task", "outcome"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "rootstock_request_seconds",
            "From a predict request's arrival to its answer.",
            registry=registry,
            buckets=SECONDS,
        )
        self.queue_seconds = Histogram(
            "rootstock_queue_seconds", "From a job's admission to its first batch.", registry=registry, buckets=SECONDS
        )
        self.batch_seconds = Histogram(
            "rootstock_batch_seconds", "One batch in the engine.", registry=registry, buckets=SECONDS
        )
        self.batch_rows = Histogram("rootstock_batch_rows", "Rows in a batch.", registry=registry, buckets=POWERS)
        self.batch_tokens = Histogram("rootstock_batch_tokens", "Tokens in a batch.", registry=registry, buckets=TOKENS)
        self.batch_tasks = Histogram(
            "rootstock_batch_tasks", "Distinct tasks in a batch.", registry=registry, buckets=POWERS
        )
        self.tokens = Counter("rootstock_tokens", "Tokens that the engine has run.", registry=registry)
        self.queued_tokens = Gauge("rootstock_queued_tokens", "Tokens waiting for the engine.", registry=registry)
        self.engine_faults = Counter("rootstock_engine_faults", "Batches that failed in the engine.", registry=registry)
        self.uploads = Counter("rootstock_uploads", "Adapter uploads by outcome.", ["outcome"], registry=registry)
        self.resident_adapters = Gauge("rootstock_resident_adapters", "Adapter versions in memory.", registry=registry)
        self.base_parameters = Gauge("rootstock_base_parameters", "Parameters of the base, |w|.", registry=registry)
        self.adapter_parameters = Gauge(
            "rootstock_adapter_parameters", "Parameters of all resident adapters, the sum of |v|.", registry=registry
        )
        self.tasks_behind = Gauge(
            "rootstock_tasks_behind",
            "Tasks that their active version does not answer.",
            registry=registry,
        )
        self.store_followed = Gauge(
            "rootstock_store_followed_timestamp_seconds", "When the store was last read.", registry=registry
        )

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)
