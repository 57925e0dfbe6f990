"""POST /predict: one text, many tasks; each answers as if it had been asked alone."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from httpx2 import Response

from service.adapters.methods import Head, Houlsby
from service.engine import engine as engine_module
from service.engine.base_model import BaseModel
from service.engine.encoder import Stage, encode_stages
from service.engine.weights import Weights
from service.tasks import read_for
from tests.api.harness import Harness, harness
from tests.tiny import make_adapter, make_pointer

TEXTS = ["the film was good", "a cat", "never again, really"]
SINGLE = ["colour", "upper", "frozen", "topics", "cats", "embedding"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_base: BaseModel) -> Iterator[Harness]:
    with harness(tmp_path_factory.mktemp("store"), tiny_base, max_inputs=12) as service:
        service.upload("colour", make_adapter(tiny_base, seed=1))
        service.upload("upper", make_adapter(tiny_base, method=Houlsby(bottleneck=4, layers=(1,)), seed=2))
        service.upload("frozen", make_adapter(tiny_base, method=Head(), seed=3))
        service.upload("topics", make_adapter(tiny_base, kind="multilabel", seed=4))
        service.upload("short", make_adapter(tiny_base, seed=6, tokenizer={"max_length": 8}))
        service.upload("same", make_adapter(tiny_base, pair=True, seed=5))
        service.upload("cats", make_pointer(tiny_base, "cats", "tagging", "cat"))
        service.upload("where", make_pointer(tiny_base, "where", "answer", "cat"))
        yield service


def ask(service: Harness, tasks: Sequence[str], inputs: Any, **parameters: Any) -> Response:
    return service.http.post("/predict", json={"tasks": tasks, "inputs": inputs, "parameters": parameters})


def _close(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            _close(found[name], value)
    elif isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            _close(one, other)
    else:
        assert found == (pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else expected)


@pytest.mark.parametrize("tasks", [["colour"], SINGLE[:3], SINGLE[3:], SINGLE[::-1][:4]], ids=" ".join)
@pytest.mark.parametrize("inputs", [TEXTS[0], {"text": TEXTS[0]}, TEXTS], ids=["one", "object", "several"])
def test_each_task_answers_as_if_asked_alone(service: Harness, tasks: list[str], inputs: Any) -> None:
    response = ask(service, tasks, inputs)
    assert response.status_code == 200, response.text
    answers = response.json()["answers"]
    assert [answer["task"] for answer in answers] == tasks
    for task, answer in zip(tasks, answers, strict=True):
        _close(answer, service.predict(task, inputs).json())


def test_parameters_count_for_every_task(service: Harness) -> None:
    answers = ask(service, ["colour", "frozen"], TEXTS, top_k=1).json()["answers"]
    assert {len(one["scores"]) for answer in answers for one in answer["predictions"]} == {1}


def test_a_text_is_read_once_and_its_common_layers_run_once(service: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    passes: list[list[int]] = []

    def reading(manifest: Any, tokenizer: Any, inputs: Sequence[Any]) -> Any:
        read.append(len(inputs))
        return read_for(manifest, tokenizer, inputs)

    def encoding(weights: Weights, stages: Sequence[Stage]) -> Any:
        passes.append([len(stage.batch.ids) for stage in stages])
        return encode_stages(weights, stages)

    monkeypatch.setattr("service.api.answering.read_for", reading)
    monkeypatch.setattr(engine_module, "encode_stages", encoding)
    answers = ask(service, ["colour", "upper", "frozen", "topics"], TEXTS[0]).json()["answers"]
    tokens = answers[0]["usage"]["tokens"]
    assert read == [1]
    # Below layer 1: two adapters that begin there at the bottom, and one row for the two others. Then each its own.
    assert passes == [[3 * tokens, 4 * tokens]]


def test_pairs_and_passages_are_asked_together_too(service: Harness) -> None:
    pair = {"text": "good", "text_pair": "bad"}
    assert ask(service, ["same"], pair).json()["answers"] == [service.predict("same", pair).json()]
    question = {"question": "this", "context": "a cat"}
    assert ask(service, ["where"], question).json()["answers"] == [service.predict("where", question).json()]


@pytest.mark.parametrize(
    ("body", "status", "cause"),
    [
        ({"tasks": ["colour", "nobody"], "inputs": "x"}, 404, "there is no task 'nobody'"),
        ({"tasks": [], "inputs": "x"}, 422, "tasks: List should have at least 1 item"),
        ({"tasks": ["colour", "topics", "colour"], "inputs": "x"}, 422, "tasks: Task 'colour' is named twice"),
        ({"tasks": "colour", "inputs": "x"}, 422, "tasks: Input should be a valid"),
        ({"inputs": "x"}, 422, "tasks: Field required"),
        ({"tasks": ["colour", "same"], "inputs": "x"}, 422, "inputs[0]: task same reads {text, text_pair}; a text"),
        ({"tasks": ["colour", "where"], "inputs": "x"}, 422, "inputs[0]: task where reads {question, context}"),
        ({"tasks": SINGLE[:5], "inputs": TEXTS}, 413, "inputs: 3 for 5 tasks in one request; at most 12 are answered"),
        (
            {"tasks": ["colour"], "inputs": "x", "parameters": {"version": 1}},
            422,
            "parameters: there is no field version",
        ),
        (
            {"tasks": ["colour", "short"], "inputs": "good " * 20, "parameters": {"truncate": False}},
            422,
            "inputs[0]: longer than task short's 8 tokens",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_whole(service: Harness, body: Any, status: int, cause: str) -> None:
    before = service.state()
    response = service.http.post("/predict", json=body)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"].startswith(cause)
    assert service.state() == before


def test_a_request_counts_for_each_of_its_tasks(service: Harness) -> None:
    def answered(task: str) -> float:
        value = service.services.metrics.registry.get_sample_value(
            "rootstock_requests_total", {"task": task, "outcome": "answered"}
        )
        return value or 0.0

    before = [answered(task) for task in ("colour", "topics", "cats")]
    ask(service, ["colour", "topics"], "good")
    assert [answered(task) for task in ("colour", "topics", "cats")] == [before[0] + 1, before[1] + 1, before[2]]
