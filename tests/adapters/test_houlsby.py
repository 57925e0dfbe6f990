"""The Houlsby method: the paper's sizes, its near-identity start, and its maths written out by hand."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from service.adapters.methods import BARE, PLACES, Adaptation, Dims, Houlsby, Norm
from service.engine.base_model import BaseModel
from service.engine.encoder import Group, encode
from service.engine.packing import pack
from tests.tiny import make_manifest, make_tensors, random_row


@given(st.integers(1, 300), st.integers(1, 800), st.integers(1, 24))
def test_an_adapter_has_2md_d_m_parameters_and_each_norm_2d(m: int, d: int, layers: int) -> None:
    shapes = Houlsby(bottleneck=m).shapes(Dims(layers, d, inner=4 * d, heads=1)).values()
    adapters, norms = 2 * layers * (2 * m * d + d + m), 2 * layers * 2 * d
    assert sum(math.prod(shape) for shape in shapes) == adapters + norms


def test_only_the_named_layers_carry_adapters() -> None:
    shapes = Houlsby(bottleneck=4, layers=(1, 3)).shapes(Dims(layers=4, hidden=8, inner=32, heads=2))
    assert {name.split(".")[1] for name in shapes} == {"1", "3"}
    assert len(shapes) == 2 * 2 * 6


def test_without_norms_of_its_own_it_has_none() -> None:
    shapes = Houlsby(norms=False).shapes(Dims(layers=2, hidden=8, inner=32, heads=2))
    assert len(shapes) == 2 * 2 * 4
    assert not any("norm" in name for name in shapes)


@pytest.mark.parametrize("scale", [1e-3, 1e-2])
def test_start_weights_are_a_normal_cut_at_two_sigma_and_biases_zero(tiny_base: BaseModel, scale: float) -> None:
    tensors = _start(Houlsby(bottleneck=256, init_scale=scale), tiny_base)
    weights = torch.cat([t.flatten() for name, t in tensors.items() if name.endswith(("down.weight", "up.weight"))])
    assert weights.abs().max() <= 2 * scale
    assert weights.abs().max() > 1.9 * scale
    assert weights.std().item() == pytest.approx(0.88 * scale, rel=0.02)  # a normal cut at 2σ deviates by 0.880σ
    assert weights.mean().abs() < 0.02 * scale
    assert all(not t.any() for name, t in tensors.items() if name.endswith(("down.bias", "up.bias")))


def test_start_norms_are_copies_of_the_bases_own(tiny_base: BaseModel) -> None:
    tensors = _start(Houlsby(), tiny_base)
    for (layer, place), own in tiny_base.weights.norms().items():
        gain, bias = (tensors[f"layers.{layer}.{place}.norm.{part}"] for part in ("weight", "bias"))
        assert torch.equal(gain, own.gain)
        assert torch.equal(bias, own.bias)
        assert gain.data_ptr() != own.gain.data_ptr()


@pytest.mark.parametrize("activation", ["gelu", "relu", "swish", "tanh"])
def test_after_a_projection_it_is_down_activation_up_and_a_skip(tiny_base: BaseModel, activation: Any) -> None:
    method = Houlsby(bottleneck=4, activation=activation)
    v = make_tensors(tiny_base, make_manifest(tiny_base, method=method))
    adaptation = method.adapt(tiny_base.dims, v, torch.float32)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    for layer in range(2):
        for place in PLACES:
            expected = _by_hand(x, v, f"layers.{layer}.{place}", activation)
            found = adaptation.after_projection(layer, place, torch.full_like(x, torch.nan), x)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_layers_without_an_adapter_are_left_as_they_are(tiny_base: BaseModel) -> None:
    method = Houlsby(bottleneck=4, layers=(1,))
    adaptation = method.adapt(
        tiny_base.dims, make_tensors(tiny_base, make_manifest(tiny_base, method=method)), torch.float32
    )
    x, own = torch.ones(3, 32), Norm(torch.ones(32), torch.zeros(32))
    for place in PLACES:
        assert adaptation.after_projection(0, place, x, x) is x
        assert adaptation.norm(0, place, own) is own
        assert not torch.equal(adaptation.after_projection(1, place, x, x), x)
        assert adaptation.norm(1, place, own) is not own


def test_the_whole_encoder_equals_the_paper_written_out(tiny_base: BaseModel) -> None:
    method = Houlsby(bottleneck=4)
    v = make_tensors(tiny_base, make_manifest(tiny_base, method=method))
    found = _encode(tiny_base, method.adapt(tiny_base.dims, v, torch.float32))
    torch.testing.assert_close(found, _paper(tiny_base, v), rtol=1e-5, atol=1e-5)


def test_memory_counts_every_number_at_its_width(tiny_base: BaseModel) -> None:
    method = Houlsby(bottleneck=4)
    tensors = _start(method, tiny_base)
    norms = sum(tensor.numel() for name, tensor in tensors.items() if "norm" in name)
    others = sum(tensor.numel() for tensor in tensors.values()) - norms
    assert method.adapt(tiny_base.dims, tensors, torch.float32).nbytes == 4 * (others + norms)
    assert method.adapt(tiny_base.dims, tensors, torch.bfloat16).nbytes == 2 * others + 4 * norms


def _start(method: Houlsby, base: BaseModel) -> dict[str, Tensor]:
    return method.initial(base.dims, base.weights.norms(), torch.Generator().manual_seed(0))


def _encode(base: BaseModel, adaptation: Adaptation = BARE) -> Tensor:
    with torch.inference_mode():
        return encode(base.weights, pack([random_row(17)]), [Group(slice(None), slice(None), adaptation)])


def _by_hand(x: Tensor, v: dict[str, Tensor], site: str, activation: str = "gelu") -> Tensor:
    """The paper's figure 2, right: h + up(f(down(h)))."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "gelu": lambda z: 0.5 * z * (1 + torch.erf(z / math.sqrt(2))),
        "relu": lambda z: z.clamp(min=0),
        "swish": lambda z: z / (1 + torch.exp(-z)),
        "tanh": lambda z: (torch.exp(2 * z) - 1) / (torch.exp(2 * z) + 1),
    }
    inner = functions[activation](x @ v[f"{site}.down.weight"].T + v[f"{site}.down.bias"])
    return x + inner @ v[f"{site}.up.weight"].T + v[f"{site}.up.bias"]


def _paper(base: BaseModel, v: dict[str, Tensor]) -> Tensor:
    """Figure 2, left, for one row of random tokens: adapter, residual, then the task's LayerNorm."""
    w, row = base.weights, random_row(17)
    assert w.embeddings.type is not None
    assert w.embeddings.position is not None
    x = w.embeddings.word[row.ids] + w.embeddings.position[: len(row)] + w.embeddings.type[row.types]
    x = F.layer_norm(x, (32,), *w.embeddings.norm, w.norm_eps)
    for index, layer in enumerate(w.layers):
        q, k, t = (part.view(17, 4, 8).transpose(0, 1) for part in layer.qkv(x).chunk(3, dim=1))  # [heads, tokens, 8]
        mixed = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(8), dim=-1) @ t
        attended = layer.attention_out(mixed.transpose(0, 1).reshape(17, 32))
        x = _close(attended, x, v, f"layers.{index}.attention", w.norm_eps)
        x = _close(layer.ffn_out(F.gelu(layer.ffn_in(x))), x, v, f"layers.{index}.ffn", w.norm_eps)
    return x


def _close(projected: Tensor, residual: Tensor, v: dict[str, Tensor], site: str, eps: float) -> Tensor:
    x = _by_hand(projected, v, site) + residual
    centred = x - x.mean(1, keepdim=True)
    normal = centred / torch.sqrt((centred**2).mean(1, keepdim=True) + eps)
    return normal * v[f"{site}.norm.weight"] + v[f"{site}.norm.bias"]
