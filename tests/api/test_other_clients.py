"""The protocols spoken by clients that are not ours: Triton's, OpenAI's and Hugging Face's own packages.

The first two come with requirements-clients.lock, which `make soak` installs.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from huggingface_hub import InferenceClient

from service.api.app import create_app
from service.client import Client
from service.engine.base_model import BaseModel
from service.settings import Settings
from tests.live import listening
from tests.tiny import make_adapter, make_pointer

TEXTS = ["the cat, a CAT!", "rain", "good film"]
PAIRS = ["bad", "🙂 the dog", "good film"]
ASKED: dict[str, dict[str, list[str]]] = {
    "mood": {"text": TEXTS},
    "topics": {"text": TEXTS},
    "grade": {"text": TEXTS, "text_pair": PAIRS},
    "cats": {"text": TEXTS},
    "where": {"question": PAIRS, "context": TEXTS},
    "embedding": {"text": TEXTS},
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, tiny_base: BaseModel) -> Iterator[str]:
    settings = Settings(store=tmp_path_factory.mktemp("store"), threads=1)
    with listening(create_app(settings, tiny_base)) as url:
        with Client(url) as client:
            client.push("mood", make_adapter(tiny_base, seed=1))
            client.push("mood", make_adapter(tiny_base, seed=2), activate=False)
            client.push("topics", make_adapter(tiny_base, kind="multilabel", seed=3))
            client.push("grade", make_adapter(tiny_base, kind="regression", pair=True, seed=4))
            client.push("cats", make_pointer(tiny_base, "cats", "tagging", "cat"))
            client.push("where", make_pointer(tiny_base, "where", "answer", "cat"))
        yield url


@pytest.fixture
def ours(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


@pytest.fixture(scope="module")
def http() -> Any:
    from tritonclient import http

    return http


@pytest.fixture
def triton(http: Any, url: str) -> Iterator[Any]:
    with http.InferenceServerClient(url.removeprefix("http://")) as client:
        yield client


def sent(http: Any, task: str, binary: bool = True) -> list[Any]:
    tensors = []
    for name, texts in ASKED[task].items():
        tensor = http.InferInput(name, [len(texts)], "BYTES")
        tensor.set_data_from_numpy(np.array(texts, dtype=np.object_), binary_data=binary)
        tensors.append(tensor)
    return tensors


@pytest.mark.slow
@pytest.mark.parametrize("task", ASKED)
@pytest.mark.parametrize("into", [True, False])
@pytest.mark.parametrize("out", [True, False])
def test_triton_gets_the_tensors_that_the_metadata_promises(
    triton: Any, http: Any, task: str, into: bool, out: bool
) -> None:
    from tritonclient.utils import np_to_triton_dtype

    promised = triton.get_model_metadata(task)
    assert {one["name"] for one in promised["inputs"]} == ASKED[task].keys()
    wanted = [http.InferRequestedOutput(one["name"], binary_data=out) for one in promised["outputs"]]
    found = triton.infer(task, sent(http, task, into), outputs=wanted, request_id="mine")
    assert found.get_response()["id"] == "mine"
    everything = triton.infer(task, sent(http, task))
    for one in promised["outputs"]:
        values = found.as_numpy(one["name"])
        assert np_to_triton_dtype(values.dtype) == one["datatype"]
        assert all(said in (-1, came) for said, came in zip(one["shape"], values.shape, strict=True))
        assert texts_of(values) == texts_of(everything.as_numpy(one["name"]))


def texts_of(values: Any) -> list[Any]:
    """A tensor's elements; texts come as bytes from bytes, and as texts from JSON."""
    return [one.decode() if isinstance(one, bytes) else one for one in values.reshape(-1).tolist()]


@pytest.mark.slow
def test_triton_gets_what_predict_answers(triton: Any, http: Any, ours: Client) -> None:
    found = triton.infer("mood", sent(http, "mood"))
    assert texts_of(found.as_numpy("label")) == [one["label"] for one in ours.predict("mood", TEXTS)]
    vectors = [one["embedding"] for one in ours.predict("embedding", TEXTS)]
    np.testing.assert_allclose(
        triton.infer("embedding", sent(http, "embedding")).as_numpy("embedding"), vectors, atol=1e-6
    )
    pairs = [{"text": text, "text_pair": pair} for text, pair in zip(TEXTS, PAIRS, strict=True)]
    values = [one["value"] for one in ours.predict("grade", pairs)]
    np.testing.assert_allclose(triton.infer("grade", sent(http, "grade")).as_numpy("value"), values, rtol=1e-6)
    entities = [json.loads(one) for one in triton.infer("cats", sent(http, "cats")).as_numpy("prediction")]
    assert entities == ours.predict("cats", TEXTS)


@pytest.mark.slow
def test_triton_asks_another_version_by_its_number(triton: Any, http: Any) -> None:
    versions = [triton.infer("mood", sent(http, "mood"), version).get_response() for version in ("", "1", "2")]
    assert [one["model_version"] for one in versions] == ["1", "1", "2"]
    assert len({one["parameters"]["digest"] for one in versions}) == 2
    assert triton.get_model_metadata("mood", "2")["versions"] == ["1", "2"]


@pytest.mark.slow
def test_triton_sees_the_server_and_its_repository(triton: Any, ours: Client) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.get_server_metadata()["name"] == "rootstock"
    assert triton.is_model_ready("mood")
    assert triton.is_model_ready("mood", "2")
    assert not triton.is_model_ready("mood", "9")
    assert not triton.is_model_ready("nobody")
    assert ["mood", "2", "READY"] in [
        [one["name"], one["version"], one["state"]] for one in triton.get_model_repository_index()
    ]
    triton.unload_model("mood")
    assert not ours.task("mood")["resident"]
    triton.load_model("mood")
    assert ours.task("mood")["resident"]


@pytest.mark.slow
def test_triton_reads_our_errors(triton: Any, http: Any) -> None:
    from tritonclient.utils import InferenceServerException

    refused: list[tuple[Any, str, str]] = [
        (lambda: triton.infer("nobody", sent(http, "mood")), "404", "there is no task 'nobody'"),
        (lambda: triton.infer("grade", sent(http, "mood")), "422", "reads tensors text, text_pair"),
        (lambda: triton.infer("mood", sent(http, "mood"), priority=3), "422", "there is no field priority"),
        (lambda: triton.infer("mood", sent(http, "mood"), request_compression_algorithm="gzip"), "415", "gzip"),
        (lambda: triton.load_model("mood", config="{}"), "422", "there is no field config"),
        (lambda: triton.unload_model("embedding"), "409", "stays in memory"),
        (lambda: triton.get_model_config("mood"), "404", "Not Found"),
    ]
    for call, status, cause in refused:
        with pytest.raises(InferenceServerException, match=cause) as raised:
            call()
        assert raised.value.status() == status


@pytest.mark.slow
def test_openai_gets_vectors_by_both_encodings(url: str, ours: Client) -> None:
    from openai import OpenAI

    expected = [one["embedding"] for one in ours.predict("embedding", TEXTS)]
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        by_default = client.embeddings.create(model="embedding", input=TEXTS)
        as_floats = client.embeddings.create(model="embedding", input=TEXTS, encoding_format="float")
    for found in (by_default, as_floats):
        assert (found.model, found.object) == ("embedding", "list")
        assert found.usage.prompt_tokens == found.usage.total_tokens > 0
        np.testing.assert_allclose([one.embedding for one in found.data], expected, atol=1e-6)


@pytest.mark.slow
def test_openai_reads_our_errors(url: str) -> None:
    from openai import NotFoundError, OpenAI, UnprocessableEntityError

    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(NotFoundError, match="there is no task 'nobody'") as raised:
            client.embeddings.create(model="nobody", input="x")
        assert (raised.value.code, raised.value.type) == ("unknown_task", "invalid_request_error")
        with pytest.raises(UnprocessableEntityError, match="is of kind classification"):
            client.embeddings.create(model="mood", input="x")


def test_hugging_faces_client_speaks_with_embed(url: str, ours: Client) -> None:
    client = InferenceClient(f"{url}/embed")
    [expected] = ours.predict("embedding", TEXTS[0])
    for found in (
        client.feature_extraction(TEXTS[0]),
        client.feature_extraction(TEXTS[0], normalize=True, truncate=True),
    ):
        np.testing.assert_allclose(found, [expected["embedding"]], atol=1e-6)
    plain = client.feature_extraction(TEXTS[0], normalize=False)
    assert abs(np.linalg.norm(plain) - 1) > 0.1
