"""What those who run the service see: costs, health, metrics, and the documents of the API."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service import __version__
from service.api.schemas import ActivateRequest, CandidateRequest, PredictManyRequest, PredictRequest
from service.engine.base_model import BaseModel
from service.metrics import PROCESS, ROWS
from service.serving.runner import Runner
from tests.api.harness import JSON, Harness, assert_problem, harness
from tests.tiny import make_adapter

ROUTES = {
    ("post", "/predict"),
    ("post", "/predict/{task}"),
    ("get", "/tasks"),
    ("get", "/tasks/{task}"),
    ("put", "/adapters/{task}"),
    ("get", "/adapters/{task}"),
    ("get", "/adapters/{task}/log"),
    ("delete", "/adapters/{task}"),
    ("get", "/adapters/{task}/versions/{version}"),
    ("delete", "/adapters/{task}/versions/{version}"),
    ("post", "/adapters/{task}/activate"),
    ("post", "/adapters/{task}/candidate"),
    ("delete", "/adapters/{task}/candidate"),
    ("post", "/adapters/{task}/candidate/promote"),
    ("get", "/stats"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/metrics"),
    ("get", "/v2"),
    ("get", "/v2/health/live"),
    ("get", "/v2/health/ready"),
    ("get", "/v2/models/{task}"),
    ("get", "/v2/models/{task}/ready"),
    ("post", "/v2/models/{task}/infer"),
    ("get", "/v2/models/{task}/versions/{version}"),
    ("get", "/v2/models/{task}/versions/{version}/ready"),
    ("post", "/v2/models/{task}/versions/{version}/infer"),
    ("post", "/v2/repository/index"),
    ("post", "/v2/repository/models/{task}/load"),
    ("post", "/v2/repository/models/{task}/unload"),
    ("post", "/embed"),
    ("post", "/v1/embeddings"),
}


def samples(service: Harness) -> dict[tuple[str, ...], float]:
    """Every sample of /metrics: (name, label values in the order of their names…) → value."""
    families = text_string_to_metric_families(service.http.get("/metrics").text)
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_stats_add_up(service: Harness, tiny_base: BaseModel) -> None:
    for seed, task in enumerate(["mood", "colour", "mood"]):
        service.upload(task, make_adapter(tiny_base, seed=seed))
    stats = service.get("/stats")
    base, adapters = stats["base"], stats["adapters"]
    each = [task["parameters"] for task in service.get("/tasks")]
    assert (base["parameters"], base["bytes"]) == (tiny_base.parameters, tiny_base.bytes)
    assert (base["name"], base["fingerprint"], base["dtype"]) == (tiny_base.name, tiny_base.fingerprint, "float32")
    assert (adapters["tasks"], adapters["resident"]) == (2, 3)  # the first of mood stays a while
    assert adapters["parameters"] == sum(each)
    assert adapters["bytes"] >= 4 * sum(each)
    assert stats["ratio"] == (base["parameters"] + sum(each)) / base["parameters"]
    assert stats["fine_tuned_parameters"] == 2 * base["parameters"]


def test_stats_of_an_empty_service_are_the_bases_alone(service: Harness) -> None:
    stats = service.get("/stats")
    assert stats["adapters"] == {"tasks": 0, "resident": 0, "parameters": 0, "bytes": 0}
    assert (stats["ratio"], stats["fine_tuned_parameters"]) == (1.0, 0)


def test_a_running_service_is_alive_and_ready(service: Harness) -> None:
    assert service.get("/healthz") == {"status": "alive"}
    assert service.get("/readyz") == {"status": "ready"}


def test_a_stopped_engine_is_neither_alive_nor_ready(service: Harness) -> None:
    service.services.runner.stop()
    assert_problem(service.http.get("/healthz"), 503, "engine_stopped", "has ended")
    assert_problem(service.http.get("/readyz"), 503, "not_ready", "not running")


def test_an_engine_that_does_not_move_is_not_alive(service: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = service.services.settings.stall_seconds
    monkeypatch.setattr(Runner, "busy_seconds", lambda self: limit + 1)
    assert_problem(service.http.get("/healthz"), 503, "engine_stalled", f"running for {limit + 1:.0f} s")
    monkeypatch.setattr(Runner, "busy_seconds", lambda self: limit - 1)
    assert service.http.get("/healthz").status_code == 200


def test_metrics_count_requests_by_outcome(service: Harness, tiny_base: BaseModel) -> None:
    service.upload("mood", make_adapter(tiny_base))
    for inputs in ("good film", ["a", "b"], "", "good", {"text": "x", "text_pair": "y"}):
        service.predict("mood", inputs)
    service.predict("embedding", "good film")
    for made_up in ("nope", "none", "nobody"):
        service.predict(made_up, "good film")
    found = samples(service)
    counted = {key[1:]: value for key, value in found.items() if key[0] == "rootstock_requests_total"}
    assert counted == {
        ("answered", "mood"): 3,
        ("answered", "embedding"): 1,
        ("bad_input", "mood"): 2,
        ("unknown_task", ""): 3,  # names that anyone makes up get no label of their own
    }
    for part in ("request", "request_queue", "request_engine"):  # of those that were answered
        counts = {key[1:]: value for key, value in found.items() if key[0] == f"rootstock_{part}_seconds_count"}
        assert counts == {("mood",): 3, ("embedding",): 1}


def test_the_parts_of_a_requests_time_are_no_more_than_the_whole(service: Harness, tiny_base: BaseModel) -> None:
    service.upload("mood", make_adapter(tiny_base))
    for number in range(1, 9):
        service.predict("mood", ["good film"] * number)
    found = samples(service)
    queue, engine, whole = (
        found[f"rootstock_{part}_seconds_sum", "mood"] for part in ("request_queue", "request_engine", "request")
    )
    assert 0 < engine < whole
    assert 0 < queue < whole
    assert queue + engine < whole


def test_metrics_count_inputs_and_tokens_by_task(service: Harness, tiny_base: BaseModel) -> None:
    service.upload("mood", make_adapter(tiny_base))
    usage = [service.predict("mood", inputs).json()["usage"] for inputs in ("good film", ["a", "long " * 100])]
    service.predict("mood", "")
    found = samples(service)
    assert found["rootstock_inputs_total", "mood"] == 3
    assert found["rootstock_input_tokens_total", "mood"] == sum(one["tokens"] for one in usage)
    assert found["rootstock_truncated_inputs_total", "mood"] == sum(one["truncated"] for one in usage) == 1


def test_past_the_limit_tasks_share_a_label(tmp_path: Path, tiny_base: BaseModel) -> None:
    with harness(tmp_path, tiny_base, metrics_tasks=1) as service:
        for task in ("mood", "colour", "taste"):
            service.upload(task, make_adapter(tiny_base))
            service.predict(task, "good film")
        found = samples(service)
    counted = {key[1:]: value for key, value in found.items() if key[0] == "rootstock_requests_total"}
    assert counted == {("answered", "mood"): 1, ("answered", "_other"): 2}


def test_metrics_measure_the_engines_work(service: Harness, tiny_base: BaseModel) -> None:
    service.upload("mood", make_adapter(tiny_base))
    proof = samples(service)
    tokens = service.predict("mood", ["good film", "a b c"]).json()["usage"]["tokens"]
    found = {key: value - proof.get(key, 0) for key, value in samples(service).items()}
    assert found["rootstock_tokens_total",] == found["rootstock_batch_tokens_sum",] == tokens == 9
    assert found["rootstock_batch_rows_sum",] == 2
    assert found["rootstock_batch_tasks_sum",] == found["rootstock_batch_tasks_count",] == 1
    assert found["rootstock_rows_total", "classification", "houlsby"] == 2
    assert found["rootstock_batch_seconds_count",] == 1
    assert found["rootstock_queued_tokens",] == found["rootstock_engine_faults_total",] == 0


def test_metrics_count_uploads_and_what_is_resident(service: Harness, tiny_base: BaseModel) -> None:
    data = make_adapter(tiny_base)
    for body in (data, data, data[:-1], b""):
        service.put("mood", body)
    service.put("embedding", data)
    found = samples(service)
    counted = {key[1]: value for key, value in found.items() if key[0] == "rootstock_uploads_total"}
    assert counted == {"accepted": 1, "known": 1, "bad_adapter": 2, "conflict": 1}
    assert found["rootstock_resident_adapters",] == 1
    assert found["rootstock_base_parameters",] == tiny_base.parameters
    assert found["rootstock_adapter_parameters",] == service.get("/stats")["adapters"]["parameters"]
    service.http.delete("/adapters/mood")
    assert samples(service)["rootstock_resident_adapters",] == 0


def test_a_service_exposes_what_is_in_the_table_and_nothing_else(service: Harness, tiny_base: BaseModel) -> None:
    service.upload("mood", make_adapter(tiny_base))
    service.predict("mood", "good film")
    families = {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in text_string_to_metric_families(service.http.get("/metrics").text)
    }
    assert families.keys() == {row.exposed for row in (*ROWS, *PROCESS)}
    for row in ROWS:
        family = families[row.exposed]
        assert (family.type, family.documentation) == ("gauge" if row.kind == "info" else row.kind, row.help)
        labels = {frozenset(sample.labels.keys() - {"le"}) for sample in family.samples}
        assert row.kind == "info" or labels <= {frozenset(row.labels)}


def test_the_build_is_told(service: Harness, tiny_base: BaseModel) -> None:
    [sample] = [
        sample
        for family in text_string_to_metric_families(service.http.get("/metrics").text)
        for sample in family.samples
        if sample.name == "rootstock_build_info"
    ]
    assert sample.labels == {
        "version": __version__,
        "base": tiny_base.name,
        "dtype": "float32",
        "device": "cpu",
        "kernels": "own" if tiny_base.weights.native is not None else "torch",
    }


def test_500_tasks_are_less_than_300_kilobytes(service: Harness) -> None:
    metrics = service.services.metrics
    for number in range(500):
        with metrics.label(f"a-task-with-a-name-{number}") as label:
            for row in ROWS:
                if row.labels == ("task",) and row.kind == "histogram":
                    metrics.families[row.name].labels(label).observe(0.0123456789)
                elif row.labels == ("task",):
                    metrics.families[row.name].labels(label).inc(123456.789)
            for outcome in ("answered", "cancelled", "bad_input", "overloaded", "engine_fault"):
                metrics.requests.labels(label, outcome).inc(123456)
    scraped = service.http.get("/metrics")
    assert scraped.text.count("rootstock_request_seconds_count{") == service.services.settings.metrics_tasks + 1
    assert len(scraped.content) < 300_000


def test_the_api_documents_itself(service: Harness) -> None:
    page = service.http.get("/docs")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "/openapi.json" in page.text
    document = service.get("/openapi.json")
    assert document["openapi"].startswith("3.")
    assert document["info"]["title"] == "Rootstock"
    assert {(method, path) for path, methods in document["paths"].items() for method in methods} == ROUTES
    assert all(operation["summary"] for methods in document["paths"].values() for operation in methods.values())


def test_every_reference_in_the_document_leads_somewhere(service: Harness) -> None:
    document = service.get("/openapi.json")
    references = {value for key, value in _pairs(document) if key == "$ref"}
    assert references
    for reference in references:
        part: Any = document
        for name in reference.removeprefix("#/").split("/"):
            part = part[name]
        assert part


def test_the_documents_examples_are_answered(service: Harness, tiny_base: BaseModel) -> None:
    service.upload("mood", make_adapter(tiny_base))
    operation = service.get("/openapi.json")["paths"]["/predict/{task}"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    examples = schema["properties"]["inputs"]["examples"]
    assert examples
    for example in examples:
        body = {"inputs": example, "parameters": schema["properties"]["parameters"]["default"]}
        assert service.http.post("/predict/mood", content=json.dumps(body), headers=JSON).status_code == 200


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/predict/{task}", PredictRequest),
        ("/predict", PredictManyRequest),
        ("/adapters/{task}/activate", ActivateRequest),
        ("/adapters/{task}/candidate", CandidateRequest),
    ],
)
def test_the_document_shows_every_field_of_a_body(service: Harness, path: str, model: type[Any]) -> None:
    operation = service.get("/openapi.json")["paths"][path]["post"]
    assert operation["requestBody"]["required"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == set(model.model_fields)
    assert schema["additionalProperties"] is False


def test_the_document_takes_files_as_bytes(service: Harness) -> None:
    operation = service.get("/openapi.json")["paths"]["/adapters/{task}"]["put"]
    assert set(operation["requestBody"]["content"]) == {"application/octet-stream"}
    assert {"200", "201", "409", "413", "415", "422"} <= set(operation["responses"])


def _pairs(part: Any) -> Iterator[tuple[str, Any]]:
    """Every (name, value) anywhere in a JSON document."""
    if isinstance(part, dict):
        yield from part.items()
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _pairs(inner)
