"""Of files laid out alike all but the first take a short way; what comes out is the same."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from service.adapters.file import digest, write_adapter
from service.adapters.methods import AnyMethod
from service.engine.arranging import Arranger, load_resident
from service.engine.bank import Resident
from service.engine.base_model import BaseModel
from service.engine.engine import Engine, Row
from service.errors import BadAdapter
from tests.layouts import Layout, every_layout, load_in
from tests.tiny import METHODS, make_adapter, make_manifest, make_tensors, random_row


@pytest.fixture
def base(layout: Layout, tiny_folder: Path) -> BaseModel:
    return load_in(layout, str(tiny_folder))


def _residents(base: BaseModel, files: list[bytes]) -> Iterator[Resident]:
    """All through one buffer, as the store reads them."""
    arranger, buffer = Arranger(base), bytearray(max(map(len, files)))
    for data in files:
        buffer[: len(data)] = data
        yield arranger.arrange(arranger.header(data, len(data)), memoryview(buffer)[: len(data)], 1, digest(data))
    buffer[:] = b"\xff" * len(buffer)


@every_layout
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_files_laid_out_alike_answer_as_each_by_itself(layout: Layout, base: BaseModel, method: AnyMethod) -> None:
    files = [make_adapter(base, method=method, seed=seed, description="x" * seed) for seed in range(3)]
    engine, tokens = Engine(base), random_row(12)
    for data, resident in zip(files, list(_residents(base, files)), strict=True):
        found, expected = engine.run([Row(tokens, resident)]), engine.run([Row(tokens, load_resident(base, data, 1))])
        assert resident.digest == digest(data)
        np.testing.assert_array_equal(found[0], expected[0])


@every_layout
def test_a_number_that_is_none_is_named_on_the_short_way_too(layout: Layout, base: BaseModel) -> None:
    manifest = make_manifest(base)
    tensors = make_tensors(base, manifest)
    name = next(iter(tensors))
    bad = tensors | {name: torch.full_like(tensors[name], torch.nan)}
    with pytest.raises(BadAdapter, match=f"tensor {name} holds values that are not finite"):
        list(_residents(base, [write_adapter(manifest, tensors), write_adapter(manifest, bad)]))
