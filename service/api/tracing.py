"""OpenTelemetry traces. FastAPI draws the span of a request; here are the parts inside it, and the batches it shares.

    POST /predict/{task}        the request
    ├── tokenise
    ├── queue                   from admission to the first batch
    ├── batch                   one for each that held rows of it; linked to the engine's span of that batch
    └── decode
    engine.run                  a trace of its own for each batch, linked to all requests in it

Parts are drawn when the request is answered, from its account, so nothing of this runs on the way. Spans tell names of
tasks, counts and times; never texts, keys or what was answered.
"""

from collections.abc import Iterable
from time import monotonic, time
from typing import Protocol, runtime_checkable

from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, TracerProvider, get_current_span

from service import __version__
from service.api.account import Account
from service.errors import NotInstalled
from service.serving.jobs import Batch, Course


def exporting_provider() -> TracerProvider:
    """Sends spans as the OTEL_… variables say: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, and their like.

    Raises:
        NotInstalled
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider as Provider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise NotInstalled(
            "traces need OpenTelemetry's SDK and exporter: pip install 'rootstock[telemetry]'"
        ) from error
    ours = Resource.create({"service.name": "rootstock", "service.version": __version__})
    named = ours.merge(OTELResourceDetector().detect())  # what the variables name beats ours
    provider = Provider(resource=named)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


@runtime_checkable
class Ending(Protocol):
    """A provider of the SDK; the API's own has no end."""

    def shutdown(self) -> None: ...


class Tracing:
    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self._tracer = provider.get_tracer("rootstock", __version__)

    def begin(self, account: Account) -> None:
        """Has the batches that the request will be in know its span, where that is recorded."""
        span = get_current_span()
        if span.is_recording():
            account.course.context = span.get_span_context()

    def batch(self, batch: Batch, courses: Iterable[Course]) -> None:
        """Draws a batch that has run. Called by the engine's thread."""
        links = [Link(course.context) for course in courses if isinstance(course.context, SpanContext)]
        if links:
            span = self._tracer.start_span(
                "engine.run",
                Context(),
                links=links,
                start_time=_nanoseconds(batch.started),
                attributes={**_counts(batch), "rootstock.requests": len(links)},
            )
            span.end(_nanoseconds(batch.ended))
            batch.context = span.get_span_context()

    def draw(self, account: Account) -> None:
        """Draws the parts of a request that was answered, inside the current span."""
        span, course = get_current_span(), account.course
        if not span.is_recording():
            return
        span.set_attribute("rootstock.tasks", account.tasks)
        span.set_attribute("rootstock.tokens", account.tokens)
        span.set_attribute("rootstock.request_id", account.id)
        self._part("tokenise", *account.tokenised)
        if course.batches:
            self._part("queue", course.admitted, course.batches[0].started)
        for batch in course.batches:
            self._part("batch", batch.started, batch.ended, batch)
        self._part("decode", *account.decoded)

    def end(self) -> None:
        """Sends what is left. The provider takes no more."""
        if isinstance(self.provider, Ending):
            self.provider.shutdown()

    def _part(self, name: str, started: float, ended: float, batch: Batch | None = None) -> None:
        links = [Link(batch.context)] if batch and isinstance(batch.context, SpanContext) else []
        attributes = _counts(batch) if batch else {}
        self._tracer.start_span(name, links=links, start_time=_nanoseconds(started), attributes=attributes).end(
            _nanoseconds(ended)
        )


def _counts(batch: Batch) -> dict[str, int]:
    return {
        "rootstock.batch.rows": batch.rows,
        "rootstock.batch.tokens": batch.tokens,
        "rootstock.batch.adapters": batch.adapters,
    }


def _nanoseconds(moment: float) -> int:
    """A moment of `monotonic`, since 1970."""
    return int((time() - monotonic() + moment) * 1e9)
