"""The attention that training runs is the one that serving runs, there and back."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from service.adapters.methods import Prefix
from service.engine.attention import attend
from service.engine.packing import Packed, pack
from tests.tiny import random_row

HEADS, HIDDEN = 4, 32


def _none(rows: Sequence[int]) -> Prefix:
    raise AssertionError("no row has a prefix")


def _batch(lengths: list[int]) -> tuple[Packed, Tensor]:
    batch = pack([random_row(length) for length in sorted(lengths)])
    generator = torch.Generator().manual_seed(sum(lengths))
    return batch, torch.randn(len(batch.ids), 3 * HIDDEN, generator=generator)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_training_computes_what_serving_computes(lengths: list[int]) -> None:
    batch, qkv = _batch(lengths)
    served = attend(qkv, batch.blocks, HEADS, _none)
    trained = attend(qkv.clone().requires_grad_(), batch.blocks, HEADS, _none)
    torch.testing.assert_close(trained.detach(), served, atol=1e-5, rtol=1e-5)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_its_gradient_is_the_derivative(lengths: list[int]) -> None:
    batch, qkv = _batch(lengths)
    assert torch.autograd.gradcheck(
        lambda x: attend(x, batch.blocks, HEADS, _none), qkv.double().requires_grad_(), fast_mode=True
    )


@pytest.mark.parametrize("length", [1, 25, 128])
def test_half_precision_stays_close(length: int) -> None:
    batch, qkv = _batch([length, length, 7])
    exact, rough = qkv.clone().requires_grad_(), qkv.bfloat16().requires_grad_()
    weights = torch.randn(len(qkv), HIDDEN, generator=torch.Generator().manual_seed(0))
    for x in (exact, rough):
        (attend(x, batch.blocks, HEADS, _none) * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert exact.grad is not None
    assert rough.grad is not None
    assert (exact.grad - rough.grad).norm() < 0.02 * exact.grad.norm()
