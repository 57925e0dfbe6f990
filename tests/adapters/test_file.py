"""The adapter file: what is written is read back, and equal content gives equal bytes."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from service.adapters.file import check_shapes, digest, read_header, read_tensors, write_adapter
from service.adapters.manifest import KindName
from service.adapters.methods import AnyMethod, Houlsby, Shape
from service.engine.arranging import load_resident
from service.engine.base_model import BaseModel
from service.errors import BadAdapter
from service.tasks import expected_shapes
from tests.tiny import KINDS, METHODS, make_adapter, make_manifest, make_tensors

LABEL_SETS = st.lists(st.text(min_size=1, max_size=20), min_size=2, max_size=12, unique=True)
SHAPES = st.dictionaries(
    st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__"),
    st.lists(st.integers(0, 5), max_size=4).map(tuple),
    max_size=6,
)


@given(SHAPES, LABEL_SETS, st.integers(0, 1000))
def test_what_is_written_is_read_back(
    tiny_base: BaseModel, shapes: dict[str, Shape], labels: list[str], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=generator).half().float() for name, shape in shapes.items()}
    manifest = make_manifest(tiny_base, labels=labels)
    data = write_adapter(manifest, tensors)
    header = read_header(data)
    assert header.manifest.model_copy(update={"seal": None}) == manifest
    assert header.shapes == shapes
    assert _equal(read_tensors(data, header), tensors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_kind_and_method_survives_its_file(tiny_base: BaseModel, kind: KindName, method: AnyMethod) -> None:
    manifest = make_manifest(tiny_base, kind=kind, method=method)
    tensors = make_tensors(tiny_base, manifest)
    data = write_adapter(manifest, tensors)
    header = read_header(data)
    assert header.manifest.model_copy(update={"seal": None}) == manifest
    assert type(header.manifest.method) is type(method)
    check_shapes(header.shapes, expected_shapes(manifest, tiny_base.dims))
    assert _equal(read_tensors(data, header), tensors)
    assert load_resident(tiny_base, data, version=1).parameters == sum(tensor.numel() for tensor in tensors.values())


@pytest.mark.parametrize("kind", ["multilabel", "tagging", "answer"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_of_every_kind_and_method_each_tensor_is_needed_in_its_shape(
    tiny_base: BaseModel, kind: KindName, method: AnyMethod
) -> None:
    manifest = make_manifest(tiny_base, kind=kind, method=method)
    tensors = make_tensors(tiny_base, manifest)
    for name, tensor in tensors.items():
        wrong = {key: value for key, value in tensors.items() if key != name}
        with pytest.raises(BadAdapter, match=rf"tensor {name} .* is missing"):
            load_resident(tiny_base, write_adapter(manifest, wrong), version=1)
        with pytest.raises(
            BadAdapter, match=rf"tensor {name} has shape .*, expected {re.escape(str(list(tensor.shape)))}"
        ):
            load_resident(tiny_base, write_adapter(manifest, wrong | {name: torch.cat([tensor, tensor])}), version=1)
    with pytest.raises(BadAdapter, match="belongs to no part of this method and kind"):
        load_resident(tiny_base, write_adapter(manifest, tensors | {"layers.0.extra": torch.ones(1)}), version=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_accepted_dtype_is_read_as_it_is(tiny_base: BaseModel, dtype: torch.dtype) -> None:
    manifest = make_manifest(tiny_base)
    tensors = make_tensors(tiny_base, manifest)
    data = write_adapter(manifest, tensors, dtype)
    assert read_header(data).shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    found = read_tensors(data, read_header(data))
    assert all(tensor.dtype == dtype for tensor in found.values())
    assert _equal(found, {name: tensor.to(dtype) for name, tensor in tensors.items()})


def test_equal_content_gives_equal_bytes_whatever_the_order(tiny_base: BaseModel) -> None:
    manifest = make_manifest(tiny_base)
    tensors = make_tensors(tiny_base, manifest)
    backwards = dict(reversed(tensors.items()))
    assert write_adapter(manifest, tensors) == write_adapter(manifest, backwards)


def test_the_digest_names_the_content(tiny_base: BaseModel) -> None:
    one, same, other = (make_adapter(tiny_base, seed=seed) for seed in (1, 1, 2))
    assert digest(one) == digest(same) != digest(other)


def test_a_file_carries_little_beside_its_numbers(tiny_base: BaseModel) -> None:
    data = make_adapter(tiny_base, method=Houlsby(bottleneck=64))
    numbers = sum(tensor.numel() for tensor in read_tensors(data, read_header(data)).values())
    assert len(data) - 2 * numbers < 8192


def test_tensors_must_be_just_those_expected() -> None:
    expected: dict[str, Shape] = {"a": (2, 3), "b": (4,)}
    check_shapes({"b": (4,), "a": (2, 3)}, expected)
    for found, cause in (
        ({"a": (2, 3)}, r"tensor b \[4\] is missing"),
        ({"a": (3, 2), "b": (4,)}, r"tensor a has shape \[3, 2\], expected \[2, 3\]"),
        ({"a": (2, 3), "b": (4,), "c": (1,)}, "tensor c belongs to no part"),
    ):
        with pytest.raises(BadAdapter, match=cause):
            check_shapes(found, expected)


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name].float(), second[name].float()) for name in first
    )
