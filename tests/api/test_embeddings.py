"""/embed and /v1/embeddings: the vectors of /predict in the forms of others, and errors in theirs."""

from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from service.engine.base_model import BaseModel
from tests.api.harness import Harness, harness
from tests.tiny import make_adapter

TEXTS = ["good film", "never again"]
LONG = "good " * 100  # the tiny base reads 64 tokens


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_base: BaseModel) -> Iterator[Harness]:
    with harness(tmp_path_factory.mktemp("store"), tiny_base, max_inputs=4) as service:
        service.upload("mood", make_adapter(tiny_base, seed=1))
        service.upload("vectors", make_adapter(tiny_base, kind="embedding", seed=2))
        yield service


def vectors(service: Harness, texts: Any, task: str = "embedding") -> Any:
    return np.array([prediction["embedding"] for prediction in service.answers(task, texts)])


def embed(service: Harness, **body: Any) -> Any:
    return service.http.post("/embed", json=body)


def ask(service: Harness, **body: Any) -> Any:
    return service.http.post("/v1/embeddings", json={"model": "embedding", **body})


@pytest.mark.parametrize("inputs", [TEXTS, TEXTS[0]])
def test_embed_gives_a_vector_a_text(service: Harness, inputs: Any) -> None:
    response = embed(service, inputs=inputs)
    assert response.status_code == 200
    np.testing.assert_allclose(response.json(), vectors(service, inputs), atol=1e-6)


def test_embed_without_normalize_gives_the_mean_as_it_is(service: Harness) -> None:
    plain = np.array(embed(service, inputs=TEXTS, normalize=False).json())
    lengths = np.linalg.norm(plain, axis=1, keepdims=True)
    assert (np.abs(lengths - 1) > 0.1).all()
    np.testing.assert_allclose(plain / lengths, vectors(service, TEXTS), atol=1e-6)


def test_embed_cuts_only_where_it_is_told_to(service: Harness) -> None:
    np.testing.assert_allclose(embed(service, inputs=LONG, truncate=True).json(), vectors(service, LONG), atol=1e-6)
    for truncate in (None, False):
        refused = embed(service, inputs=["x", LONG], truncate=truncate)
        assert refused.status_code == 422
        assert refused.json()["error"].startswith("inputs[1]: longer than the task's 64 tokens")


def test_embed_takes_what_clients_send_for_nothing(service: Harness, tiny_base: BaseModel) -> None:
    whole = embed(service, inputs=TEXTS).json()
    hidden = tiny_base.dims.hidden
    said = {"truncation_direction": "Right", "prompt_name": None, "dimensions": hidden, "normalize": True}
    assert embed(service, inputs=TEXTS, **said).json() == whole


@pytest.mark.parametrize(
    ("body", "status", "kind", "cause"),
    [
        ({}, 422, "validation", "inputs: Field required"),
        ({"inputs": []}, 422, "validation", "inputs: List should have at least 1 item"),
        ({"inputs": [1, 2]}, 422, "validation", "inputs[0]: Input should be a valid string"),
        ({"inputs": " "}, 422, "validation", "inputs[0]: text is empty"),
        ({"inputs": "x", "prompt_name": "query"}, 422, "validation", "prompt_name: Input should be null"),
        ({"inputs": "x", "truncation_direction": "Left"}, 422, "validation", "truncation_direction: Input should be"),
        ({"inputs": "x", "dimensions": 5}, 422, "validation", "dimensions: the task's vectors have 32, not 5"),
        ({"inputs": ["x"] * 5}, 413, "validation", "inputs: 5 in one request; at most 4 are answered"),
    ],
)
def test_embeds_errors_are_those_of_its_protocol(
    service: Harness, body: Any, status: int, kind: str, cause: str
) -> None:
    response = embed(service, **body)
    assert response.status_code == status
    assert response.json().keys() == {"error", "error_type"}
    assert response.json()["error_type"] == kind
    assert response.json()["error"].startswith(cause)


@pytest.mark.parametrize("task", ["embedding", "vectors"])
def test_openai_names_the_task_as_its_model(service: Harness, task: str) -> None:
    answer = ask(service, input=TEXTS, model=task, user="somebody").json()
    expected = service.predict(task, TEXTS).json()
    tokens = expected["usage"]["tokens"]
    assert (answer["object"], answer["model"]) == ("list", task)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert [(one["object"], one["index"]) for one in answer["data"]] == [("embedding", 0), ("embedding", 1)]
    np.testing.assert_allclose([one["embedding"] for one in answer["data"]], vectors(service, TEXTS, task), atol=1e-6)


def test_openais_base64_is_the_same_vector(service: Harness) -> None:
    plain = ask(service, input=TEXTS).json()["data"]
    coded = ask(service, input=TEXTS, encoding_format="base64").json()["data"]
    for one, other in zip(plain, coded, strict=True):
        np.testing.assert_array_equal(np.frombuffer(b64decode(other["embedding"]), "<f4"), np.float32(one["embedding"]))


@pytest.mark.parametrize(
    ("body", "status", "code", "cause"),
    [
        ({"input": "x", "model": "nobody"}, 404, "unknown_task", "there is no task 'nobody'"),
        ({"input": "x", "model": "mood"}, 422, "bad_input", "model: task mood is of kind classification"),
        ({}, 422, "bad_input", "input: Field required"),
        ({"input": [1, 2, 3]}, 422, "bad_input", "input[0]: Input should be a valid string"),
        ({"input": "x", "dimensions": 5}, 422, "bad_input", "dimensions: the task's vectors have 32, not 5"),
        ({"input": "x", "encoding_format": "int8"}, 422, "bad_input", "encoding_format: Input should be 'float' or"),
        ({"input": LONG}, 422, "bad_input", "inputs[0]: longer than the task's 64 tokens"),
    ],
)
def test_openais_errors_are_those_of_its_protocol(
    service: Harness, body: Any, status: int, code: str, cause: str
) -> None:
    response = ask(service, **body)
    assert response.status_code == status
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert error["message"].startswith(cause)


def test_a_stopped_service_is_told_in_each_form(tmp_path_factory: pytest.TempPathFactory, tiny_base: BaseModel) -> None:
    with harness(tmp_path_factory.mktemp("store"), tiny_base) as service:
        service.services.runner.stop()
        embedded, asked = embed(service, inputs="x"), ask(service, input="x")
        assert (embedded.status_code, embedded.json()["error_type"]) == (503, "overloaded")
        assert (asked.status_code, asked.json()["error"]["type"]) == (503, "server_error")
        assert embedded.headers["Retry-After"] == asked.headers["Retry-After"] == "1"


def test_other_paths_keep_problem_documents(service: Harness) -> None:
    for path in ("/v3", "/embedded", "/predict/v2/models", "/"):
        assert service.http.get(path).headers["Content-Type"] == "application/problem+json"
    assert service.http.get("/embed").json() == {
        "error": "GET /embed: Method Not Allowed",
        "error_type": "validation",
    }
