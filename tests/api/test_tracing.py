"""Traces: a request and its parts, and the batch that several requests shared; nothing where nobody asks for them."""

import gzip
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread
from time import sleep

import pytest
import torch
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanContext

from service.api.app import create_app
from service.engine.base_model import BaseModel
from service.engine.engine import Engine, Row
from service.errors import NotInstalled
from service.settings import Settings
from service.tasks import Floats

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@contextmanager
def traced(store: Path, base: BaseModel, provider: TracerProvider) -> Iterator[TestClient]:
    threads = torch.get_num_threads()
    app = create_app(Settings(store=store, threads=1), base, provider)
    try:
        with TestClient(app, "http://localhost") as http:
            yield http
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def http(tmp_path: Path, tiny_base: BaseModel, exported: InMemorySpanExporter) -> Iterator[TestClient]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    with traced(tmp_path / "store", tiny_base, provider) as http:
        yield http


def named(spans: Sequence[ReadableSpan], name: str) -> list[ReadableSpan]:
    return [span for span in spans if span.name == name]


def context(span: ReadableSpan) -> SpanContext:
    assert isinstance(span.context, SpanContext)
    return span.context


def ask(http: TestClient, text: str = "good film") -> None:
    body = {"inputs": [text, "a b c"]}
    assert http.post("/predict/embedding", json=body, headers={"traceparent": PARENT}).status_code == 200


def test_a_request_is_a_span_of_its_callers_trace_with_its_parts_in_order(
    http: TestClient, exported: InMemorySpanExporter
) -> None:
    ask(http)
    spans = exported.get_finished_spans()
    [request] = named(spans, "POST /predict/{task}")
    assert f"{context(request).trace_id:032x}" == PARENT.split("-")[1]
    parts = [span for span in spans if span.parent is not None and span.parent.span_id == context(request).span_id]
    parts.sort(key=lambda span: span.start_time or 0)
    assert [part.name for part in parts] == ["tokenise", "queue", "batch", "decode"]
    moments = [moment or 0 for part in parts for moment in (part.start_time, part.end_time)]
    slack = 50_000  # ns; the clocks are compared anew for each moment
    assert all(later > earlier - slack for earlier, later in pairwise(moments))
    assert request.attributes is not None
    assert request.attributes["rootstock.tasks"] == ("embedding",)
    assert request.attributes["rootstock.tokens"] == 9


def test_a_batch_is_a_span_that_knows_all_its_requests_and_is_known_to_them(
    http: TestClient, exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Engine.run

    def slow(self: Engine, rows: Sequence[Row]) -> list[Floats]:
        sleep(0.2)
        return run(self, rows)

    monkeypatch.setattr(Engine, "run", slow)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: ask(http), range(8)))
    spans = exported.get_finished_spans()
    requests = {context(span).span_id for span in named(spans, "POST /predict/{task}")}
    shared = named(spans, "engine.run")
    assert 1 < len(shared) < 8  # the first alone, others together
    assert {link.context.span_id for span in shared for link in span.links} == requests
    known = {context(span).span_id for span in shared}
    for part in named(spans, "batch"):
        [link] = part.links
        assert link.context.span_id in known
        [batch] = [span for span in shared if context(span).span_id == link.context.span_id]
        assert batch.attributes is not None
        assert part.attributes is not None
        assert (
            part.attributes["rootstock.batch.rows"] == batch.attributes["rootstock.batch.rows"] == 2 * len(batch.links)
        )
        assert part.parent is not None
        assert part.parent.span_id in {link.context.span_id for link in batch.links}


def test_no_text_is_in_a_trace(http: TestClient, exported: InMemorySpanExporter) -> None:
    ask(http, "confidential")
    http.post("/predict/embedding", json={"inputs": {"confidential": 1}})
    spans = exported.get_finished_spans()
    assert len(spans) > 5
    assert "confidential" not in "".join(span.to_json() for span in spans)


def test_probes_leave_no_trace(http: TestClient, exported: InMemorySpanExporter) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        http.get(path)
    assert exported.get_finished_spans() == ()


def test_what_is_not_sampled_costs_no_spans(
    tmp_path: Path, tiny_base: BaseModel, exported: InMemorySpanExporter
) -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF)
    provider.add_span_processor(SimpleSpanProcessor(exported))
    with traced(tmp_path, tiny_base, provider) as http:
        assert http.post("/predict/embedding", json={"inputs": "x"}).status_code == 200
    assert exported.get_finished_spans() == ()


def test_without_the_setting_there_is_no_tracing(tmp_path: Path, tiny_base: BaseModel) -> None:
    app = create_app(Settings(store=tmp_path), tiny_base)
    assert app.state.services.tracing is None
    app.state.services.registry.close()


def test_traces_without_their_packages_are_refused_by_name(
    tmp_path: Path, tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(NotInstalled, match=r"rootstock\[telemetry\]"):
        create_app(Settings(store=tmp_path, traces=True), tiny_base)


class Receiver(BaseHTTPRequestHandler):
    """An OTLP receiver, as small as one can be."""

    received: list[ExportTraceServiceRequest]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_the_setting_sends_them_where_the_variables_say(
    tmp_path: Path, tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    Receiver.received = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        app = create_app(Settings(store=tmp_path, threads=1, traces=True), tiny_base)
        with TestClient(app, "http://localhost") as http:  # its end sends what is left
            assert http.post("/predict/embedding", json={"inputs": "x"}).status_code == 200
        server.shutdown()
        thread.join()
    [spans] = [one for request in Receiver.received for one in request.resource_spans]
    resource = {one.key: one.value.string_value for one in spans.resource.attributes}
    assert resource["service.name"] == "rootstock"
    assert resource["deployment.environment.name"] == "test"
    names = {span.name for scope in spans.scope_spans for span in scope.spans}
    assert names == {"POST /predict/{task}", "tokenise", "queue", "batch", "decode", "engine.run"}
