"""An upload that is not right is refused with its cause, and changes nothing."""

import pickle
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from service.adapters.file import write_adapter
from service.engine.base_model import BaseModel
from tests.adapters.forge import with_entry, with_header, with_manifest
from tests.api.harness import BINARY, Harness, assert_problem, harness
from tests.tiny import make_adapter, make_manifest, make_tensors

MAX_ADAPTER_BYTES = 100_000
NAME = "layers.0.ffn.up.bias"

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tiny_base: BaseModel) -> Iterator[Harness]:
    store = tmp_path_factory.mktemp("store")
    with harness(store, tiny_base, max_adapter_bytes=MAX_ADAPTER_BYTES) as service:
        service.upload("mood", make_adapter(tiny_base, seed=1))
        service.upload("mood", make_adapter(tiny_base, seed=2))
        yield service


@pytest.fixture(scope="module")
def before(shared: Harness) -> dict[str, Any]:
    return shared.state()


@pytest.fixture
def service(shared: Harness, before: dict[str, Any]) -> Iterator[Harness]:
    """The shared service, which every test must leave as it was."""
    yield shared
    assert shared.state() == before


@pytest.fixture(scope="module")
def whole(tiny_base: BaseModel) -> bytes:
    return make_adapter(tiny_base, seed=3)


def assert_refused(service: Harness, data: bytes, cause: str) -> None:
    """Neither as a version of a task that is there nor as a task of its own."""
    for task in ("mood", "fresh"):
        assert_problem(service.put(task, data), 422, "bad_adapter", cause)
        assert_problem(service.put(task, data, activate=False), 422, "bad_adapter", cause)


def test_a_file_cut_short_anywhere(service: Harness, whole: bytes) -> None:
    for end in [*range(0, 12), *range(12, len(whole), 191), len(whole) - 1]:
        assert_problem(service.put("mood", whole[:end]), 422, "bad_adapter", "cut short|too few|at most")


def test_a_file_with_something_after_its_end(service: Harness, whole: bytes) -> None:
    assert_refused(service, whole + b"\0", "1 bytes follow the last tensor")


def test_an_adapter_of_another_base(service: Harness, tiny_base: BaseModel, whole: bytes) -> None:
    identity = tiny_base.identity.model_copy(update={"fingerprint": "0" * 64}).model_dump()
    assert_refused(service, with_manifest(whole, base=identity), "fingerprint 0{16}…, this service runs")


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda tensors: tensors.pop(NAME), rf"tensor {NAME} \[32\] is missing"),
        (lambda tensors: tensors.update({NAME: torch.zeros(31)}), rf"tensor {NAME} has shape \[31\], expected \[32\]"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "tensor extra belongs to no part"),
        (lambda tensors: tensors[NAME].fill_(torch.nan), f"tensor {NAME} holds values that are not finite"),
        (lambda tensors: tensors[NAME].fill_(-torch.inf), f"tensor {NAME} holds values that are not finite"),
    ],
)
def test_tensors_that_are_not_those_of_the_manifest(
    service: Harness, tiny_base: BaseModel, change: Change, cause: str
) -> None:
    manifest = make_manifest(tiny_base)
    tensors = make_tensors(tiny_base, manifest, seed=3)
    change(tensors)
    assert_refused(service, write_adapter(manifest, tensors), cause)


def test_a_refusal_says_for_programs_what_it_says_in_words(service: Harness, tiny_base: BaseModel) -> None:
    manifest = make_manifest(tiny_base)
    tensors = make_tensors(tiny_base, manifest, seed=3)
    data = write_adapter(manifest, tensors | {NAME: torch.zeros(31)})
    problem = service.put("mood", data).json()
    assert {name: problem.get(name) for name in ("step", "tensor", "expected", "got")} == {
        "step": "tensors",
        "tensor": NAME,
        "expected": [32],
        "got": [31],
    }
    problem = service.put("mood", with_entry(data, NAME, dtype="F64")).json()
    assert (problem["step"], problem["tensor"]) == ("header", NAME)
    whole = bytearray(write_adapter(manifest, tensors))
    whole[-1] ^= 1  # one bit of one number
    problem = service.put("mood", bytes(whole)).json()
    assert problem["step"] == "seal"
    assert {len(problem["expected"]), len(problem["got"])} == {64}
    golden = [{"input": {"text": "good"}, "outputs": [0.5, 0.5]}]
    problem = service.put("mood", with_manifest(bytes(whole), golden=golden, tolerance=1e-6)).json()
    assert (problem["step"], problem["example"], problem["expected"]) == ("golden", 0, 0.5)


@pytest.mark.parametrize("claim", [10**12, 2**63, 2**64 - 1])
def test_a_header_that_claims_terabytes(service: Harness, claim: int) -> None:
    assert_refused(service, claim.to_bytes(8, "little") + b"{}", f"claims {claim} bytes")


def test_tensors_that_claim_terabytes(service: Harness) -> None:
    text = b'{"a": {"dtype": "F32", "shape": [1000000, 1000000], "data_offsets": [0, 4000000000000]}}'
    assert_refused(service, with_header(b'{"__metadata__": {"rootstock": "{}"}, ' + text[1:]), "cut short")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 8,
        b"\0" * 1000,
        b"PK\x03\x04" + b"\0" * 100,
        b"good film",
        b"text,label\ngood,positive\n" * 100,
        pickle.dumps({"weights": [1.0, 2.0]}),
        with_header(pickle.dumps({"weights": [1.0, 2.0]})),
        with_header(b"[" * 50_000),
        *(random.Random(seed).randbytes(2000) for seed in range(5)),
    ],
)
def test_bytes_that_are_no_adapter(service: Harness, data: bytes) -> None:
    assert_refused(service, data, "header|too few")


def test_a_pickle_is_never_opened(service: Harness) -> None:
    opened: list[int] = []

    class Trap:
        def __reduce__(self) -> Any:
            return opened.append, (1,)

    data = pickle.dumps(Trap(), protocol=0)
    assert_refused(service, data, "header")
    assert_refused(service, with_header(data), "header is not JSON")
    assert not opened


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"kind": "tagging"}, r"tensor head\.weight has shape \[2, 32\], expected \[5, 32\]"),
        ({"kind": "answer", "labels": []}, "head.pair: answer reads two texts"),
        ({"kind": "singing"}, "manifest: kind"),
        ({"method": {"name": "magic"}}, "manifest: method"),
        ({"method": {"name": "full"}}, "manifest: method: full fine-tuning changes the base itself"),
        ({"labels": ["only"]}, "classification needs at least two"),
        ({"labels": ["a", "a"]}, "'a' is named twice"),
        ({"labels": ["a", "b", "c"]}, r"tensor head\.weight has shape \[2, 32\], expected \[3, 32\]"),
        ({"tokenizer": {"max_length": 65}}, "max_length is 65, the base reads 64"),
        ({"format": 2}, "manifest: format"),
        ({"colour": "red"}, "manifest: there is no field colour"),
        ({"tolerance": -1}, "manifest: tolerance"),
    ],
)
def test_a_manifest_that_cannot_be_served(service: Harness, whole: bytes, fields: dict[str, Any], cause: str) -> None:
    assert_refused(service, with_manifest(whole, **fields), cause)


@pytest.mark.parametrize(
    "name", ["Mood", "-mood", "mood-", ".mood", "m ood", "m%00d", "mood%0A", "m%C3%B6od", "%ff", "m" * 65, "m%3Fod"]
)
def test_a_name_that_no_task_may_have(service: Harness, whole: bytes, name: str) -> None:
    assert_problem(service.put(name, whole), 422, "bad_input", "is no task name: small letters")


@pytest.mark.parametrize("name", ["..%2fescaped", "..%2f..%2fescaped", "%2e%2e%2fescaped", "%2fetc%2fescaped", "a%2fb"])
def test_a_name_that_leads_out_of_the_store(service: Harness, whole: bytes, name: str) -> None:
    assert_problem(service.put(name, whole), 404, "no_such_path", "Not Found")
    assert not list(service.store.parent.glob("escaped*"))


def test_the_bare_bases_name_is_taken(service: Harness, whole: bytes) -> None:
    assert_problem(service.put("embedding", whole), 409, "conflict", "answered by the bare base")
    assert_problem(service.http.delete("/adapters/embedding"), 404, "unknown_task", "embedding")


def test_a_file_over_the_limit(service: Harness) -> None:
    data = bytes(MAX_ADAPTER_BYTES + 1)
    assert_problem(service.put("mood", data), 413, "too_large", f"more than {MAX_ADAPTER_BYTES} bytes")
    response = service.http.put("/adapters/mood", content=iter([data[:50_000], data[50_000:]]), headers=BINARY)
    assert_problem(response, 413, "too_large", f"more than {MAX_ADAPTER_BYTES} bytes")
    assert_problem(service.put("mood", data[:-1]), 422, "bad_adapter", "header")


def test_a_file_of_another_media_type(service: Harness, whole: bytes) -> None:
    response = service.http.put("/adapters/mood", content=whole, headers={"Content-Type": "application/json"})
    assert_problem(response, 415, "unsupported_media_type", "send it as application/octet-stream")


def test_a_wish_for_activation_that_is_neither_yes_nor_no(service: Harness, whole: bytes) -> None:
    response = service.http.put("/adapters/mood?activate=perhaps", content=whole, headers=BINARY)
    assert_problem(response, 422, "bad_input", "query activate: ")


@pytest.mark.parametrize(
    ("task", "body", "status", "code", "cause"),
    [
        ("mood", {"version": 3}, 404, "unknown_version", "mood has no version 3"),
        ("nope", {"version": 1}, 404, "unknown_task", "'nope'"),
        ("embedding", {"version": 1}, 404, "unknown_task", "'embedding'"),
        ("mood", {"version": 0}, 422, "bad_input", "^version: .*greater than or equal to 1"),
        ("mood", {"version": "1"}, 422, "bad_input", "^version: .*valid integer"),
        ("mood", {"version": None}, 422, "bad_input", "^version: .*valid integer"),
        ("mood", {}, 422, "bad_input", "^version: Field required"),
        ("mood", {"version": 1, "now": True}, 422, "bad_input", "^there is no field now"),
        ("mood", [], 422, "bad_input", "object"),
    ],
)
def test_activation_of_what_is_not_there(
    service: Harness, task: str, body: Any, status: int, code: str, cause: str
) -> None:
    assert_problem(service.http.post(f"/adapters/{task}/activate", json=body), status, code, cause)


@pytest.mark.parametrize(
    ("path", "status", "code", "cause"),
    [
        ("mood/versions/2", 409, "conflict", "version 2 is the active one"),
        ("mood/versions/3", 404, "unknown_version", "mood has no version 3"),
        ("mood/versions/-1", 404, "unknown_version", "mood has no version -1"),
        ("mood/versions/one", 422, "bad_input", "path version: .*integer"),
        ("mood/versions/" + "9" * 5000, 422, "bad_input", "path version: .*integer"),
        ("nope/versions/1", 404, "unknown_task", "'nope'"),
        ("nope", 404, "unknown_task", "'nope'"),
    ],
)
def test_deletion_of_what_is_active_or_not_there(
    service: Harness, path: str, status: int, code: str, cause: str
) -> None:
    assert_problem(service.http.delete(f"/adapters/{path}"), status, code, cause)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("mood/versions/3", 404, "unknown_version"),
        ("mood/versions/0", 404, "unknown_version"),
        ("mood/versions/..%2f..%2fmood.json", 404, "no_such_path"),
        ("mood/versions/x", 422, "bad_input"),
        ("nope/versions/1", 404, "unknown_task"),
    ],
)
def test_a_file_that_is_not_there(service: Harness, path: str, status: int, code: str) -> None:
    assert_problem(service.http.get(f"/adapters/{path}"), status, code, ".")
