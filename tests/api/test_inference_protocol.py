"""Open Inference Protocol v2: texts in, tensors out, as JSON and as bytes; the same answers as /predict."""

import json
from collections.abc import Iterator
from struct import pack
from typing import Any

import numpy as np
import pytest
from httpx2 import Response
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.api.protocols.models import OUTPUTS
from service.api.protocols.tensors import InputTensor, pack_texts, read_texts, tensor
from service.engine.base_model import BaseModel
from service.errors import BadInput
from service.tasks import KINDS
from tests.api.harness import Harness, harness
from tests.tiny import make_adapter, make_pointer

LABELS = ("red", "green", "blue")
NUMPY = {"FP32": np.float32, "INT64": np.int64, "BOOL": np.bool_, "BYTES": object}
TEXTS = ["the cat, a CAT!", "rain", "good film"]
PAIRS = ["bad", "the dog", "good film"]
QUESTIONS = ["what is it", "who", "why"]
# One task of each kind, and what it is asked; the tensors' names are those of /predict's inputs.
ASKED: dict[str, dict[str, list[str]]] = {
    "colour": {"text": TEXTS},
    "topics": {"text": TEXTS},
    "grade": {"text": TEXTS, "text_pair": PAIRS},
    "cats": {"text": TEXTS},
    "where": {"question": QUESTIONS, "context": TEXTS},
    "embedding": {"text": TEXTS},
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_base: BaseModel) -> Iterator[Harness]:
    with harness(tmp_path_factory.mktemp("store"), tiny_base, max_body_bytes=20_000) as service:
        service.upload("colour", make_adapter(tiny_base, labels=LABELS, seed=1))
        service.upload("colour", make_adapter(tiny_base, labels=LABELS, seed=2), activate=False)
        service.upload("topics", make_adapter(tiny_base, kind="multilabel", labels=LABELS, seed=21))
        service.upload("grade", make_adapter(tiny_base, kind="regression", pair=True, seed=5))
        service.upload("cats", make_pointer(tiny_base, "cats", "tagging", "cat"))
        service.upload("where", make_pointer(tiny_base, "where", "answer", "cat", calibration={"none_margin": 0.0}))
        yield service


def request(inputs: dict[str, list[str]], **fields: Any) -> dict[str, Any]:
    """An infer request, all in JSON."""
    tensors = [
        {"name": name, "datatype": "BYTES", "shape": [len(texts)], "data": texts} for name, texts in inputs.items()
    ]
    return {"inputs": tensors, **fields}


def in_bytes(inputs: dict[str, list[str]], **fields: Any) -> tuple[bytes, int]:
    """The same with the texts after the JSON, and the JSON's length."""
    packed = {name: pack_texts(texts) for name, texts in inputs.items()}
    tensors = [
        {
            "name": name,
            "datatype": "BYTES",
            "shape": [len(texts), 1],
            "parameters": {"binary_data_size": len(packed[name])},
        }
        for name, texts in inputs.items()
    ]
    head = json.dumps({"inputs": tensors, **fields}).encode()
    return b"".join([head, *packed.values()]), len(head)


def infer(service: Harness, task: str, body: Any, length: int | None = None, version: str = "") -> Response:
    path = f"/v2/models/{task}{version}/infer"
    if length is None:
        return service.http.post(path, json=body)
    return service.http.post(path, content=body, headers={"Inference-Header-Content-Length": str(length)})


def tensors(response: Response) -> dict[str, Any]:
    """The answer's tensors as arrays, from JSON or from the bytes."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get("Inference-Header-Content-Length", len(response.content)))
    answer, rest = json.loads(response.content[:length]), response.content[length:]
    found = {}
    for one in answer["outputs"]:
        if "data" in one:
            values = one["data"]
        else:
            size = one["parameters"]["binary_data_size"]
            data, rest = rest[:size], rest[size:]
            values = unpacked(data) if one["datatype"] == "BYTES" else np.frombuffer(data, NUMPY[one["datatype"]])
        found[one["name"]] = np.array(values, dtype=NUMPY[one["datatype"]]).reshape(one["shape"])
    assert not rest
    return found


def unpacked(data: bytes) -> list[str]:
    texts = []
    while data:
        size = int.from_bytes(data[:4], "little")
        texts.append(data[4 : 4 + size].decode())
        data = data[4 + size :]
    return texts


def predicted(service: Harness, task: str) -> list[Any]:
    names = list(ASKED[task])
    rows = zip(*ASKED[task].values(), strict=True)
    return service.answers(task, [dict(zip(names, row, strict=True)) for row in rows])


def test_each_kind_is_asked_here() -> None:
    assert OUTPUTS.keys() == KINDS.keys()


@pytest.mark.parametrize("task", ASKED)
def test_bytes_and_json_carry_the_same(service: Harness, task: str) -> None:
    as_json = tensors(infer(service, task, request(ASKED[task])))
    response = infer(service, task, *in_bytes(ASKED[task], parameters={"binary_data_output": True}))
    assert response.headers["Content-Type"] == "application/octet-stream"
    as_bytes = tensors(response)
    assert as_bytes.keys() == as_json.keys()
    for name, values in as_json.items():
        np.testing.assert_array_equal(as_bytes[name], values)


@pytest.mark.parametrize("task", ASKED)
def test_the_metadata_tells_what_comes(service: Harness, task: str) -> None:
    told = service.get(f"/v2/models/{task}")
    assert (told["name"], told["platform"]) == (task, "rootstock")
    assert [(one["name"], one["datatype"], one["shape"]) for one in told["inputs"]] == [
        (name, "BYTES", [-1]) for name in ASKED[task]
    ]
    answer = infer(service, task, request(ASKED[task])).json()
    assert [one["name"] for one in told["outputs"]] == [one["name"] for one in answer["outputs"]]
    for said, came in zip(told["outputs"], answer["outputs"], strict=True):
        assert said["datatype"] == came["datatype"]
        assert len(said["shape"]) == len(came["shape"])
        assert all(one in (-1, other) for one, other in zip(said["shape"], came["shape"], strict=True))


def test_a_classification_is_labels_and_scores_by_column(service: Harness) -> None:
    found = tensors(infer(service, "colour", request(ASKED["colour"])))
    assert tuple(found["labels"]) == LABELS
    for label, scores, prediction in zip(found["label"], found["scores"], predicted(service, "colour"), strict=True):
        assert label == prediction["label"] == LABELS[scores.argmax()]
        by_label = {one["label"]: one["score"] for one in prediction["scores"]}
        np.testing.assert_allclose(scores, [by_label[name] for name in LABELS], atol=1e-6)


def test_multilabel_says_for_each_label_whether_it_is_given(service: Harness) -> None:
    found = tensors(infer(service, "topics", request(ASKED["topics"])))
    assert tuple(found["labels"]) == LABELS
    for flags, scores, prediction in zip(found["given"], found["scores"], predicted(service, "topics"), strict=True):
        named = {one["label"]: one["score"] for one in prediction["labels"]}
        assert {name for name, flag in zip(LABELS, flags, strict=True) if flag} == named.keys()
        np.testing.assert_allclose(scores[flags], [named[name] for name in LABELS if name in named], atol=1e-6)


def test_regression_is_one_number_a_pair(service: Harness) -> None:
    values = [prediction["value"] for prediction in predicted(service, "grade")]
    np.testing.assert_allclose(tensors(infer(service, "grade", request(ASKED["grade"])))["value"], values, rtol=1e-6)


def test_embeddings_are_rows(service: Harness) -> None:
    vectors = [prediction["embedding"] for prediction in predicted(service, "embedding")]
    found = tensors(infer(service, "embedding", request(ASKED["embedding"])))["embedding"]
    np.testing.assert_allclose(found, vectors, atol=1e-6)


def test_entities_stand_in_one_list_with_the_row_they_are_of(service: Harness) -> None:
    found, predictions = tensors(infer(service, "cats", request(ASKED["cats"]))), predicted(service, "cats")
    assert [json.loads(one) for one in found["prediction"]] == predictions
    flat = [(row, one) for row, prediction in enumerate(predictions) for one in prediction["entities"]]
    assert [row for row, _ in flat] == [0, 0]
    assert found["span"].tolist() == [[row, one["start"], one["end"]] for row, one in flat]
    assert found["label"].tolist() == [one["label"] for _, one in flat]
    np.testing.assert_allclose(found["score"], [one["score"] for _, one in flat], atol=1e-6)
    for row, start, end in found["span"]:
        assert TEXTS[row][start:end].lower() == "cat"


def test_no_entity_is_an_empty_tensor(service: Harness) -> None:
    for parameters in ({}, {"binary_data_output": True}):
        found = tensors(infer(service, "cats", request({"text": ["the dog"]}, parameters=parameters)))
        assert [one.shape for one in found.values()] == [(1,), (0, 3), (0,), (0,)]


def test_an_answer_is_a_span_and_none_is_minus_one(service: Harness) -> None:
    found, predictions = tensors(infer(service, "where", request(ASKED["where"]))), predicted(service, "where")
    assert [json.loads(one) for one in found["prediction"]] == predictions
    assert {prediction["answer"] is None for prediction in predictions} == {True, False}
    for text, span, score, prediction in zip(found["answer"], found["span"], found["score"], predictions, strict=True):
        assert text == (prediction["answer"] or "")
        assert span.tolist() == ([-1, -1] if not text else [prediction["start"], prediction["end"]])
        assert score == pytest.approx(prediction["score"])


def test_only_what_is_asked_for_comes_each_as_it_was_asked(service: Harness) -> None:
    outputs = [{"name": "labels"}, {"name": "scores", "parameters": {"binary_data": True}}]
    response = infer(service, "colour", request(ASKED["colour"], outputs=outputs))
    assert list(tensors(response)) == ["labels", "scores"]
    head = json.loads(response.content[: int(response.headers["Inference-Header-Content-Length"])])
    assert [set(one) - {"name", "datatype", "shape"} for one in head["outputs"]] == [{"data"}, {"parameters"}]
    other = [{"name": "label", "parameters": {"binary_data": False}}]
    plain = infer(service, "colour", request(ASKED["colour"], outputs=other, parameters={"binary_data_output": True}))
    assert plain.headers["Content-Type"] == "application/json"
    assert list(tensors(plain)) == ["label"]


def test_the_answer_says_who_gave_it(service: Harness) -> None:
    whole = service.predict("colour", TEXTS[0]).json()
    answer = infer(service, "colour", request({"text": TEXTS[:1]}, id="mine")).json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine", "colour", "1")
    assert answer["parameters"] == {"digest": whole["digest"], **whole["usage"]}
    assert "id" not in infer(service, "colour", request({"text": TEXTS[:1]})).json()
    other = infer(service, "colour", request({"text": TEXTS[:1]}), version="/versions/2").json()
    assert (other["model_version"], other["parameters"]["digest"] == whole["digest"]) == ("2", False)


def test_requests_are_counted_with_those_of_predict(service: Harness) -> None:
    def count() -> float:
        value = service.services.metrics.registry.get_sample_value(
            "rootstock_requests_total", {"task": "grade", "outcome": "answered"}
        )
        return value or 0.0

    before = count()
    infer(service, "grade", request(ASKED["grade"]))
    assert count() == before + 1


@pytest.mark.parametrize(
    ("task", "body", "status", "cause"),
    [
        ("nobody", request({"text": ["x"]}), 404, "there is no task 'nobody'"),
        ("colour", {}, 422, "inputs: Field required"),
        ("colour", {"inputs": []}, 422, "inputs: List should have at least 1 item"),
        ("colour", request({"text": ["x"]}, sequence=1), 422, "there is no field sequence"),
        ("colour", request({"text": ["x"]}, parameters={"priority": 1}), 422, "parameters: there is no field priority"),
        (
            "colour",
            request({"text": ["x"]}, outputs=[{"name": "logits"}]),
            422,
            "outputs: the task answers with label, s",
        ),
        ("colour", request({"txt": ["x"]}), 422, "inputs: the task reads tensors text; txt were sent"),
        ("grade", request({"text": ["x"]}), 422, "inputs: the task reads tensors text, text_pair; text were sent"),
        ("grade", request({"text": ["x"], "text_pair": ["x", "y"]}), 422, "inputs: 1 of text, 2 of text_pair; there"),
        ("colour", request({"text": []}), 422, "inputs: the tensors have no element"),
        ("colour", request({"text": ["x", " "]}), 422, r"inputs[1]: text is empty"),
        ("colour", {"inputs": [request({"text": []})["inputs"][0] | {"data": [5]}]}, 422, "inputs[0].data[0]"),
        ("colour", {"inputs": [request({"text": ["x"]})["inputs"][0]] * 2}, 422, "inputs: tensor text is there twice"),
        ("colour", request({"text": ["good " * 100]}, parameters={"truncate": False}), 422, "inputs[0]: longer than"),
        ("colour", request({"text": ["x" * 20_000]}), 413, "the body has more than 20000 bytes"),
    ],
)
def test_what_cannot_be_answered_is_an_error_of_the_protocol(
    service: Harness, task: str, body: Any, status: int, cause: str
) -> None:
    response = infer(service, task, body)
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    assert response.json().keys() == {"error"}
    assert response.json()["error"].startswith(cause)


def described(**fields: Any) -> dict[str, Any]:
    return {"name": "text", "datatype": "BYTES", "shape": [1], **fields}


def sized(size: int) -> dict[str, Any]:
    return described(parameters={"binary_data_size": size})


@pytest.mark.parametrize(
    ("tensor", "rest", "cause"),
    [
        (described(), b"", "inputs: tensor text has neither data nor"),
        (sized(5) | {"data": ["x"]}, b"\1\0\0\0x", "inputs: tensor text has both data and"),
        (described(data=["x"], shape=[2]), b"", r"inputs: tensor text has 1 elements; its shape is [2]"),
        (described(data=["x", "y"], shape=[1, 2]), b"", r"inputs: tensor text has 2 elements; its shape is [1, 2]"),
        (described(data=["x"], shape=[10**30]), b"", "inputs: tensor text has 1 elements"),
        (described(data=["x"], shape=[-1]), b"", "inputs[0].shape[0]: Input should be greater"),
        (described(data=["x"], datatype="FP32"), b"", "inputs[0].datatype: Input should be 'BYTES'"),
        (described(data=["x"]), b"more", "4 bytes stand after the JSON; its tensors have 0"),
        (sized(9), b"\1\0\0\0x", "inputs: tensor text has 9 bytes; 5 were sent"),
        (sized(5), b"\2\0\0\0x", "inputs: tensor text ends in the middle of element 0"),
        (sized(3), b"\0\0\0", "inputs: tensor text ends in the middle of element 0"),
        (sized(5), b"\1\0\0\0\xff", "inputs: element 0 of tensor text is not UTF-8"),
        (sized(4), b"\xff\xff\xff\xff", "inputs: tensor text ends in the middle"),
        (sized(-1), b"", "inputs[0].parameters.binary_data_size: Input should"),
    ],
)  # fmt: skip
def test_a_tensor_that_is_none(service: Harness, tensor: Any, rest: bytes, cause: str) -> None:
    head = json.dumps({"inputs": [tensor]}).encode()
    response = infer(service, "colour", head + rest, len(head))
    assert response.status_code == 422
    assert response.json()["error"].startswith(cause)


@pytest.mark.parametrize("length", ["-1", "1e3", "999999", "x"])
def test_a_length_of_the_json_that_is_none(service: Harness, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length}
    response = service.http.post("/v2/models/colour/infer", content=b"{}", headers=headers)
    assert (response.status_code, "Inference-Header-Content-Length is" in response.text) == (422, True)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Content-Type": "application/json"}, 200),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/octet-stream"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
    ],
)
def test_a_media_type_may_be_left_out(service: Harness, headers: dict[str, str], status: int) -> None:
    body = json.dumps(request({"text": ["good"]})).encode()
    assert service.http.post("/v2/models/colour/infer", content=body, headers=headers).status_code == status


@given(st.lists(st.text(), max_size=5))
def test_texts_come_through_bytes_as_they_were(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    data = pack_texts(texts)
    sent = InputTensor.model_validate(described(shape=[len(texts)], parameters={"binary_data_size": len(data)}))
    assert read_texts([sent], data) == {"text": texts}
    assert tensor("text", "BYTES", texts).packed() == data


@given(st.binary(max_size=40), st.integers(0, 50), st.lists(st.integers(0, 3), min_size=1, max_size=2))
def test_any_bytes_are_texts_or_a_named_error(data: bytes, size: int, shape: list[int]) -> None:
    sent = InputTensor.model_validate(described(shape=shape, parameters={"binary_data_size": size}))
    try:
        [texts] = read_texts([sent], data).values()
    except BadInput:
        return
    assert pack_texts(texts) == data
    assert len(texts) == np.prod(shape)


def test_texts_may_be_nested_as_their_shape_is(service: Harness) -> None:
    flat = tensors(infer(service, "colour", request({"text": TEXTS})))
    nested = request({"text": TEXTS})
    nested["inputs"][0] |= {"shape": [3, 1], "data": [[text] for text in TEXTS], "parameters": {"content_type": "str"}}
    found = tensors(infer(service, "colour", nested))
    np.testing.assert_array_equal(found["scores"], flat["scores"])
    with pytest.raises(ValidationError):
        InputTensor.model_validate(described(data=[["x", "y"]]))


def test_the_server_says_what_it_is_and_how_it_is(service: Harness) -> None:
    told = service.get("/v2")
    assert told["name"] == "rootstock"
    assert told["extensions"] == ["binary_tensor_data", "model_repository"]
    assert service.get("/v2/health/live") == {"live": True}
    assert service.get("/v2/health/ready") == {"ready": True}
    assert service.get("/v2/models/colour/ready") == {"name": "colour", "ready": True}
    assert service.get("/v2/models/colour")["versions"] == ["1", "2"]
    assert service.get("/v2/models/embedding/versions/0")["versions"] == ["0"]


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("/v2/models/nobody", "there is no task 'nobody'"),
        ("/v2/models/nobody/ready", "there is no task 'nobody'"),
        ("/v2/models/colour/versions/9/ready", "task colour has no version 9"),
        ("/v2/models/embedding/versions/1", "task embedding is the bare base; it has no version 1"),
        ("/v2/models/colour/stats", "GET /v2/models/colour/stats: Not Found"),
        ("/v2/nowhere", "GET /v2/nowhere: Not Found"),
    ],
)
def test_what_is_not_there_is_an_error_of_the_protocol(service: Harness, path: str, cause: str) -> None:
    response = service.http.get(path)
    assert (response.status_code, response.json()) == (404, {"error": cause})


def test_a_dead_engine_is_neither_live_nor_ready(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: BaseModel
) -> None:
    with harness(tmp_path_factory.mktemp("store"), tiny_base) as service:
        service.services.runner.stop()
        for path, word in (("live", "live"), ("ready", "ready")):
            response = service.http.get(f"/v2/health/{path}")
            assert (response.status_code, response.json()) == (503, {word: False})


def test_the_index_lists_all_versions_and_why_one_cannot_answer(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: BaseModel
) -> None:
    store = tmp_path_factory.mktemp("store")
    (store / "broken-1.safetensors").write_bytes(pack("<Q", 5))
    (store / "good-1.safetensors").write_bytes(make_adapter(tiny_base, task="good"))
    with harness(store, tiny_base) as service:
        listed = service.http.post("/v2/repository/index").json()
        assert [(one["name"], one["version"], one["state"]) for one in listed] == [
            ("broken", "1", "UNAVAILABLE"),
            ("embedding", "0", "READY"),
            ("good", "1", "READY"),
        ]
        assert [bool(one["reason"]) for one in listed] == [True, False, False]
        ready = service.http.post("/v2/repository/index", json={"ready": True}).json()
        assert [one["name"] for one in ready] == ["embedding", "good"]
        assert service.http.get("/v2/models/broken/ready").status_code == 422


def test_unloading_frees_memory_and_takes_nothing_away(service: Harness) -> None:
    before = service.predict("colour", "good film").json()
    assert service.http.post("/v2/repository/models/colour/unload", json={}).json() == {}
    assert not service.tasks()["colour"]["resident"]
    assert service.get("/v2/models/colour/ready")["ready"]
    assert service.http.post("/v2/repository/models/colour/load").json() == {}
    assert service.tasks()["colour"]["resident"]
    service.http.post("/v2/repository/models/colour/unload", json={"parameters": {"unload_dependents": False}})
    assert service.predict("colour", "good film").json() == before


@pytest.mark.parametrize(
    ("call", "body", "status", "cause"),
    [
        ("nobody/load", {}, 404, "there is no task 'nobody'"),
        ("nobody/unload", {}, 404, "there is no task 'nobody'"),
        ("embedding/unload", {}, 409, "task embedding stays in memory"),
        ("colour/load", {"parameters": {"config": "{}"}}, 422, "parameters: there is no field config"),
        ("colour/unload", {"parameters": {"force": True}}, 422, "parameters: there is no field force"),
    ],
)
def test_what_the_repository_cannot_do_is_refused(
    service: Harness, call: str, body: Any, status: int, cause: str
) -> None:
    before = service.state()
    response = service.http.post(f"/v2/repository/models/{call}", json=body)
    assert (response.status_code, response.json()) == (status, {"error": cause})
    assert service.state() == before


def test_a_pinned_task_is_not_unloaded(tmp_path_factory: pytest.TempPathFactory, tiny_base: BaseModel) -> None:
    with harness(tmp_path_factory.mktemp("store"), tiny_base, pinned="mood") as service:
        service.upload("mood", make_adapter(tiny_base))
        response = service.http.post("/v2/repository/models/mood/unload", json={})
        assert (response.status_code, response.json()) == (409, {"error": "task mood stays in memory"})
        assert service.tasks()["mood"]["resident"]
