"""A file from outside is judged by its header: every lie is refused by BadAdapter, which names the cause."""

import json
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.adapters.file import MANIFEST_KEY, read_header, write_adapter
from service.engine.arranging import load_resident
from service.engine.base_model import BaseModel
from service.errors import BadAdapter
from tests.adapters.forge import put_together, take_apart, with_entry, with_header, with_manifest
from tests.tiny import make_adapter, make_manifest, make_tensors

NAME = "layers.0.ffn.up.bias"  # a tensor of every adapter here: 32 numbers of half precision


@pytest.fixture(scope="module")
def whole(tiny_base: BaseModel) -> bytes:
    return make_adapter(tiny_base)


def test_a_file_cut_short_anywhere_is_refused(tiny_base: BaseModel, whole: bytes) -> None:
    ends = {*range(0, 16), *range(16, len(whole), 37), len(whole) - 1}
    for end in sorted(ends):
        with pytest.raises(BadAdapter, match=r"cut short|too few|at most"):
            load_resident(tiny_base, whole[:end], version=1)


@pytest.mark.parametrize("claim", [2**63 - 1, 2**64 - 1, 10**12])
def test_a_header_that_claims_terabytes_is_not_believed(claim: int) -> None:
    with pytest.raises(BadAdapter, match=f"claims {claim} bytes"):
        read_header(claim.to_bytes(8, "little") + b"{}")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"\x80\x04\x95.", "not JSON"),  # how a pickle begins
        (b"[" * 200_000, "not JSON"),
        (b'{"a":' * 50_000, "not JSON"),
        (b'{"a":' * 200_000, "600000 strings, lists and objects by their marks; at most 500000"),
        (b"1" * 10_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"a": {}, "a": {}}', "'a' twice"),
        (b'{"a": {"dtype": "F16", "dtype": "F32"}}', "'dtype' twice"),
        (b'{"__metadata__": {"rootstock": "{}", "rootstock": "{}"}}', "'rootstock' twice"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_a_header_that_is_no_honest_object_is_refused(text: bytes, cause: str) -> None:
    with pytest.raises(BadAdapter, match=cause):
        read_header(with_header(text))


@pytest.mark.parametrize(
    "metadata", [None, {}, [], {"format": "pt"}, {MANIFEST_KEY: None}, {MANIFEST_KEY: {"format": 1}}]
)
def test_a_file_without_manifest_is_refused(whole: bytes, metadata: Any) -> None:
    header, payload = take_apart(whole)
    with pytest.raises(BadAdapter, match=r"no manifest under __metadata__\.rootstock"):
        read_header(put_together(header | {"__metadata__": metadata}, payload))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "\x00", '"\ud800"', "\ud800", "[" * 100_000, '{"labels":' * 100_000], ids=lambda t: t[:9]
)
def test_a_manifest_that_is_no_json_object_is_refused(text: str) -> None:
    header = {"__metadata__": {MANIFEST_KEY: text}}
    with pytest.raises(BadAdapter, match=r"^manifest: "):
        read_header(put_together(header, b""))


@pytest.mark.parametrize(
    ("claims", "cause"),
    [
        ({"dtype": "I64"}, "has dtype I64"),
        ({"dtype": "F64"}, "has dtype F64"),
        ({"dtype": None}, "has dtype None"),
        ({"dtype": ["F16"]}, r"has dtype \['F16'\]"),
        ({"dtype": {"F16": 1}}, "has dtype {'F16': 1}"),
        ({"shape": [-32]}, "shape .* is not a list"),
        ({"shape": [32.0]}, "shape .* is not a list"),
        ({"shape": [True, 32]}, "shape .* is not a list"),
        ({"shape": ["32"]}, "shape .* is not a list"),
        ({"shape": 32}, "shape 32 is not a list"),
        ({"shape": [1, 1, 1, 1, 32]}, "shape .* is not a list of at most four"),
        ({"shape": [2**40, 2**40]}, "needs 2417851639229258349412352 bytes"),
        ({"shape": [2**63]}, "shape .* is not a list"),
        ({"shape": [31]}, "needs 62 bytes, its span has 64"),
        ({"dtype": "F32"}, "needs 128 bytes, its span has 64"),
        ({"data_offsets": [0]}, "are not two whole numbers"),
        ({"data_offsets": [-2, 62]}, "are not two whole numbers"),
        ({"data_offsets": [0.0, 64.0]}, "are not two whole numbers"),
        ({"data_offsets": None}, "are not two whole numbers"),
        ({"data_offsets": [64, 0]}, "lies at bytes 64 to 0"),
        ({"data_offsets": [10**15, 10**15 + 64]}, "it is cut short"),
        ({"extra": 1}, "needs dtype, shape and data_offsets"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_lie_about_a_tensor_is_refused_by_its_name(whole: bytes, claims: dict[str, Any], cause: str) -> None:
    with pytest.raises(BadAdapter, match=f"tensor {NAME}.*{cause}"):
        read_header(with_entry(whole, NAME, **claims))


def test_sizes_of_thousands_of_digits_are_refused(whole: bytes) -> None:
    header, payload = take_apart(with_entry(whole, NAME, shape=["huge"] * 4))
    text = json.dumps(header).replace('"huge"', "1" + "0" * 4000)
    with pytest.raises(BadAdapter, match=f"tensor {NAME}: shape "):
        read_header(with_header(text.encode(), payload))


def test_tensors_that_overlap_are_refused(whole: bytes) -> None:
    header, _ = take_apart(whole)
    other = next(name for name in header if name.endswith("up.bias") and name != NAME)
    with pytest.raises(BadAdapter, match="overlap or leave a gap"):
        read_header(with_entry(whole, NAME, data_offsets=header[other]["data_offsets"]))


def test_a_gap_between_tensors_is_refused(whole: bytes) -> None:
    header, payload = take_apart(whole)
    del header[NAME]
    with pytest.raises(BadAdapter, match="overlap or leave a gap"):
        read_header(put_together(header, payload))


def test_bytes_after_the_last_tensor_are_refused(whole: bytes) -> None:
    with pytest.raises(BadAdapter, match="3 bytes follow the last tensor"):
        read_header(whole + b"abc")


def test_a_tensor_missing_left_over_or_of_another_shape_is_refused(tiny_base: BaseModel) -> None:
    manifest = make_manifest(tiny_base)
    tensors = make_tensors(tiny_base, manifest)
    for changed, cause in (
        ({name: tensor for name, tensor in tensors.items() if name != NAME}, f"tensor {NAME} .* is missing"),
        (tensors | {"layers.2.ffn.up.bias": torch.zeros(32)}, r"tensor layers\.2\.ffn\.up\.bias belongs to no part"),
        (tensors | {NAME: torch.zeros(31)}, rf"tensor {NAME} has shape \[31\], expected \[32\]"),
        (tensors | {"head.weight": torch.zeros(3, 32)}, r"tensor head\.weight has shape \[3, 32\], expected \[2, 32\]"),
    ):
        with pytest.raises(BadAdapter, match=cause):
            load_resident(tiny_base, write_adapter(manifest, changed), version=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_tensor_with_a_value_that_is_no_number_is_refused(tiny_base: BaseModel, value: float) -> None:
    manifest = make_manifest(tiny_base)
    tensors = make_tensors(tiny_base, manifest)
    tensors[NAME][7] = value
    with pytest.raises(BadAdapter, match=f"tensor {NAME} holds values that are not finite"):
        load_resident(tiny_base, write_adapter(manifest, tensors), version=1)


def test_a_file_that_claims_another_kind_or_method_is_refused_by_its_tensors(
    tiny_base: BaseModel, whole: bytes
) -> None:
    for claim, cause in (
        ({"kind": "tagging"}, r"tensor head\.weight has shape \[2, 32\], expected \[5, 32\]"),
        ({"kind": "embedding", "labels": []}, r"tensor head\.bias belongs to no part"),
        ({"method": {"name": "pfeiffer", "bottleneck": 4}}, r"tensor layers\.0\.attention\.\S+ belongs to no part"),
        ({"method": {"name": "lora"}}, r"tensor layers\.0\.query\.down\.weight \[16, 32\] is missing"),
        ({"method": {"name": "prefix"}}, r"tensor layers\.0\.prefix\.key \[16, 32\] is missing"),
    ):
        with pytest.raises(BadAdapter, match=cause):
            load_resident(tiny_base, with_manifest(whole, **claim), version=1)


@settings(max_examples=400)
@given(data=st.data())
def test_damage_anywhere_is_refused_or_harmless_and_never_another_exception(
    tiny_base: BaseModel, whole: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(whole)
    header_end = 8 + int.from_bytes(whole[:8], "little")
    # Half of the hits go to the header, which is most worth lying about.
    place = st.integers(0, header_end) | st.integers(0, len(whole) - 1)
    for position in data.draw(st.lists(place, min_size=1, max_size=6)):
        damaged[position] = data.draw(st.integers(0, 255))
    kept = bytes(damaged[: data.draw(st.just(len(whole)) | st.integers(0, len(whole)))])
    with suppress(BadAdapter):
        load_resident(tiny_base, kept, version=1)
        assert len(kept) == len(whole)
