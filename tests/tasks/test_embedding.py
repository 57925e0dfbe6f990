"""Embedding and pooling: one vector a row, of length one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from service.adapters.manifest import HeadSettings, Manifest
from service.engine.base_model import BaseModel
from service.tasks import Floats, Prediction
from service.tasks.base import pool
from service.tasks.embedding import Embedding
from tests.tiny import UNREAD, make_manifest

KIND = Embedding()
LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def decode(manifest: Manifest, raw: Floats) -> Prediction:
    return KIND.decode(manifest, UNREAD, [raw])


@given(st.lists(st.floats(-100, 100, width=32), min_size=32, max_size=32).filter(lambda raw: max(map(abs, raw)) > 1e-3))
def test_an_embedding_has_length_one_and_the_direction_of_the_row(tiny_base: BaseModel, raw: list[float]) -> None:
    vector = np.array(raw, np.float32)
    answer, outputs = decode(make_manifest(tiny_base, kind="embedding"), vector)
    assert np.linalg.norm(answer["embedding"]) == pytest.approx(1, abs=1e-5)
    assert answer["embedding"] == outputs.tolist()
    np.testing.assert_allclose(outputs * np.linalg.norm(vector), vector, rtol=1e-4, atol=1e-4)


def test_a_zero_vector_stays_one(tiny_base: BaseModel) -> None:
    assert not decode(make_manifest(tiny_base, kind="embedding"), np.zeros(32, np.float32)).outputs.any()


def test_an_embedding_has_no_head(tiny_base: BaseModel) -> None:
    assert KIND.head_shapes(make_manifest(tiny_base, kind="embedding"), tiny_base.dims) == {}


def test_an_embedding_is_neither_trained_nor_scored(tiny_base: BaseModel) -> None:
    manifest = make_manifest(tiny_base, kind="embedding")
    for call in (lambda: KIND.check_label(manifest, "x"), lambda: KIND.targets(manifest, UNREAD, "x")):
        with pytest.raises(NotImplementedError, match="kind embedding is not trained"):
            call()
    with pytest.raises(NotImplementedError, match="kind embedding is not scored"):
        KIND.tally(manifest, {"embedding": []}, "x")
    assert KIND.metrics == ()


def test_a_huge_vector_keeps_its_direction(tiny_base: BaseModel) -> None:
    outputs = decode(make_manifest(tiny_base, kind="embedding"), np.full(4, 1e30, np.float32)).outputs
    np.testing.assert_allclose(outputs, 0.5)


@given(LENGTHS)
def test_mean_pooling_is_each_rows_own_mean(lengths: list[int]) -> None:
    hidden, rows = _rows(lengths)
    pooled = pool(HeadSettings(pooling="mean"), hidden, torch.tensor(lengths))
    torch.testing.assert_close(pooled, torch.stack([row.mean(0) for row in rows]))


@given(LENGTHS)
def test_first_pooling_is_each_rows_own_first_token(lengths: list[int]) -> None:
    hidden, rows = _rows(lengths)
    pooled = pool(HeadSettings(pooling="first"), hidden, torch.tensor(lengths))
    assert torch.equal(pooled, torch.stack([row[0] for row in rows]))


def _rows(lengths: list[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
    hidden = torch.randn(sum(lengths), 5, generator=torch.Generator().manual_seed(0))
    return hidden, torch.split(hidden, lengths)
