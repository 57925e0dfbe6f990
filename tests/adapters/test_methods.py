"""What every method promises: its tensors, a start near the base, maths that can be written out, gradients for all."""

import math
from collections.abc import Callable, Mapping
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from service.adapters.methods import (
    BARE,
    METHODS,
    PLACES,
    Adaptation,
    AnyMethod,
    Dims,
    Head,
    Houlsby,
    Lora,
    Norm,
    Parallel,
    Pfeiffer,
    PrefixTuning,
    Site,
    Target,
)
from service.adapters.methods.bottleneck import BottleneckMethod
from service.engine.base_model import BaseModel
from service.engine.encoder import Group, encode
from service.engine.packing import pack
from service.engine.weights import Layer, Linear, Weights
from service.errors import BadAdapter
from service.tasks import expected_shapes
from tests.tiny import METHODS as EXAMPLES
from tests.tiny import make_manifest, make_tensors, random_row

TARGETS: tuple[Target, ...] = get_args(Target)
SITES: tuple[Site, ...] = get_args(Site)
SIZES = {"m": st.integers(1, 300), "d": st.integers(1, 100), "layers": st.integers(1, 24)}
Tensors = dict[str, Tensor]

every_method = pytest.mark.parametrize("method", EXAMPLES.values(), ids=EXAMPLES)


def count(method: AnyMethod, dims: Dims) -> int:
    return sum(math.prod(shape) for shape in method.shapes(dims).values())


def start(method: AnyMethod, base: BaseModel) -> Tensors:
    return method.initial(base.dims, base.weights.norms(), torch.Generator().manual_seed(0))


def randomised(method: AnyMethod, base: BaseModel) -> Tensors:
    """Random tensors for the method, without a head's."""
    return make_tensors(base, make_manifest(base, kind="embedding", method=method), seed=3)


def run(base: BaseModel, adaptation: Adaptation = BARE, weights: Weights | None = None, length: int = 17) -> Tensor:
    with torch.inference_mode():
        batch = pack([random_row(length)], [adaptation.prefix_length])
        return encode(weights or base.weights, batch, [Group(slice(0, 1), slice(0, length), adaptation)])


def moved(base: BaseModel, method: AnyMethod) -> float:
    """How far a fresh adapter moves the base's vectors, relatively."""
    bare = run(base)
    adapted = run(base, method.adapt(base.dims, start(method, base), torch.float32))
    return float(torch.linalg.norm(adapted - bare) / torch.linalg.norm(bare))


def test_every_method_is_tested() -> None:
    assert {method.name for method in EXAMPLES.values()} == set(METHODS)


@given(**SIZES)
def test_houlsby_has_two_bottlenecks_and_two_norms_a_layer(m: int, d: int, layers: int) -> None:
    dims = Dims(layers, d, 4 * d, 1)
    assert count(Houlsby(bottleneck=m), dims) == layers * 2 * (2 * m * d + d + m + 2 * d)


@given(**SIZES)
def test_pfeiffer_and_parallel_have_one_bottleneck_and_one_norm_a_layer(m: int, d: int, layers: int) -> None:
    dims = Dims(layers, d, 4 * d, 1)
    for method in (Pfeiffer(bottleneck=m), Parallel(bottleneck=m)):
        assert count(method, dims) == layers * (2 * m * d + d + m + 2 * d)
        assert not any("attention" in name for name in method.shapes(dims))
        assert count(method.model_copy(update={"norms": False}), dims) == layers * (2 * m * d + d + m)


@given(**SIZES)
def test_lora_has_two_thin_matrices_a_target(m: int, d: int, layers: int) -> None:
    dims = Dims(layers, d, 4 * d, 1)
    assert count(Lora(rank=m), dims) == layers * 2 * (2 * m * d)
    assert count(Lora(rank=m, targets=("ffn_in",)), dims) == layers * m * 5 * d
    assert count(Lora(rank=m, targets=TARGETS), dims) == layers * m * (4 * 2 * d + 2 * 5 * d)
    assert count(Lora(rank=m, norms=True), dims) == layers * (4 * m * d + 4 * d)


@given(**SIZES)
def test_prefix_has_keys_and_values_in_every_layer(m: int, d: int, layers: int) -> None:
    assert count(PrefixTuning(length=m), Dims(layers, d, 4 * d, 1)) == layers * 2 * m * d


def test_head_has_nothing_but_norms_if_it_wants_them() -> None:
    dims = Dims(layers=6, hidden=384, inner=1536, heads=12)
    assert Head().shapes(dims) == {}
    assert count(Head(norms=True), dims) == 6 * 2 * 2 * 384
    assert Head().adapt(dims, {}, torch.float32) is BARE


@every_method
def test_start_values_are_there_for_every_tensor_and_the_same_each_time(
    tiny_base: BaseModel, method: AnyMethod
) -> None:
    one, other = start(method, tiny_base), start(method, tiny_base)
    assert {name: tuple(tensor.shape) for name, tensor in one.items()} == method.shapes(tiny_base.dims)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["houlsby", "pfeiffer", "parallel"])
@pytest.mark.parametrize(
    ("base", "scale", "bound"), [("real_base", 1e-3, 1e-3), ("tiny_base", 1e-3, 1e-3), ("tiny_base", 1e-2, 5e-2)]
)
def test_a_fresh_bottleneck_is_nearly_the_identity(
    request: pytest.FixtureRequest, base: str, name: str, scale: float, bound: float
) -> None:
    method = METHODS[name].model_validate({"bottleneck": 64, "init_scale": scale})
    assert 0 < moved(request.getfixturevalue(base), method) < bound  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [Lora(targets=TARGETS, norms=True), Lora(), Head(norms=True), Head()])
def test_a_fresh_lora_or_head_is_exactly_the_base(tiny_base: BaseModel, method: AnyMethod) -> None:
    assert moved(tiny_base, method) == 0


def test_a_fresh_prefix_leaves_norms_and_is_small(tiny_base: BaseModel) -> None:
    tensors = start(PrefixTuning(length=2, init_scale=1e-3), tiny_base)
    assert all(0 < tensor.abs().max() <= 2e-3 for tensor in tensors.values())
    assert 0 < moved(tiny_base, PrefixTuning(length=1)) < 1


def test_loras_start_is_zero_above_and_uniform_below(tiny_base: BaseModel) -> None:
    for name, tensor in start(Lora(rank=64, targets=TARGETS), tiny_base).items():
        if ".up." in name:
            assert not tensor.any()
        else:
            bound = 1 / math.sqrt(tensor.shape[1])
            assert 0.95 * bound < tensor.abs().max() <= bound


@every_method
def test_far_from_the_start_the_base_is_changed(tiny_base: BaseModel, method: AnyMethod) -> None:
    adaptation = method.adapt(tiny_base.dims, randomised(method, tiny_base), torch.float32)
    changed = not torch.equal(run(tiny_base, adaptation), run(tiny_base))
    assert changed == bool(method.shapes(tiny_base.dims))


@pytest.mark.parametrize("targets", [*((target,) for target in TARGETS), ("query", "value"), ("value", "key"), TARGETS])
def test_lora_is_the_base_with_its_product_added_to_the_weights(
    tiny_base: BaseModel, targets: tuple[Target, ...]
) -> None:
    method = Lora(rank=3, alpha=5, targets=targets)
    v = randomised(method, tiny_base)
    layers = tuple(_merged(layer, number, method, v) for number, layer in enumerate(tiny_base.weights.layers))
    found = run(tiny_base, method.adapt(tiny_base.dims, v, torch.float32))
    expected = run(tiny_base, weights=tiny_base.weights._replace(layers=layers))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_pfeiffer_reads_what_the_sub_layer_made_and_parallel_what_it_read(tiny_base: BaseModel) -> None:
    generator = torch.Generator().manual_seed(0)
    residual, projected = torch.randn(5, 32, generator=generator), torch.randn(5, 32, generator=generator)
    for method in (Pfeiffer(bottleneck=4, activation="tanh"), Parallel(bottleneck=4, activation="tanh")):
        v = randomised(method, tiny_base)
        adaptation = method.adapt(tiny_base.dims, v, torch.float32)
        x = residual if method.name == "parallel" else projected
        for layer in range(2):
            part = {
                name: v[f"layers.{layer}.ffn.{name}"] for name in ("down.weight", "down.bias", "up.weight", "up.bias")
            }
            inner = torch.tanh(x @ part["down.weight"].T + part["down.bias"])
            expected = projected + inner @ part["up.weight"].T + part["up.bias"]
            found = adaptation.after_projection(layer, "ffn", residual, projected)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            assert adaptation.after_projection(layer, "attention", residual, projected) is projected


@pytest.mark.parametrize("method", [EXAMPLES["pfeiffer"], EXAMPLES["parallel"], EXAMPLES["head with norms"]], ids=str)
def test_the_whole_encoder_equals_the_method_written_out(tiny_base: BaseModel, method: AnyMethod) -> None:
    v = randomised(method, tiny_base)
    found = run(tiny_base, method.adapt(tiny_base.dims, v, torch.float32))
    torch.testing.assert_close(found, _by_hand(tiny_base, v, method), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["prefix", "prefix with norms"])
def test_prefix_is_attention_over_more_keys_and_values(tiny_base: BaseModel, name: str) -> None:
    method = EXAMPLES[name]
    v = randomised(method, tiny_base)
    found = run(tiny_base, method.adapt(tiny_base.dims, v, torch.float32))
    torch.testing.assert_close(found, _by_hand(tiny_base, v, method), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("name", ["houlsby", "pfeiffer", "parallel", "lora everywhere", "head with norms"])
def test_only_the_named_layers_are_adapted(tiny_base: BaseModel, name: str, layer: int) -> None:
    method = EXAMPLES[name].model_copy(update={"layers": (layer,)})
    whole, v = randomised(EXAMPLES[name], tiny_base), randomised(method, tiny_base)
    assert {name.split(".")[1] for name in v} == {str(layer)}
    assert len(whole) == 2 * len(v)
    adaptation = method.adapt(tiny_base.dims, v, torch.float32)
    x, own, other = torch.ones(3, 32), Norm(torch.ones(32), torch.zeros(32)), 1 - layer
    for place in PLACES:
        assert adaptation.after_projection(other, place, x, x) is x
        assert adaptation.norm(other, place, own) is own
    assert not any(adaptation.changes(other, site) for site in SITES)
    assert not torch.equal(run(tiny_base, adaptation), run(tiny_base))


@pytest.mark.parametrize("name", ["houlsby", "pfeiffer", "parallel", "lora", "prefix", "head"])
def test_norms_are_the_tasks_own_or_the_bases(tiny_base: BaseModel, name: str) -> None:
    own = Norm(torch.ones(32), torch.zeros(32))
    for norms in (True, False):
        method = EXAMPLES[name].model_copy(update={"norms": norms})
        v = randomised(method, tiny_base)
        adaptation = method.adapt(tiny_base.dims, v, torch.float32)
        for place in PLACES:
            expected = norms and place in method.places()
            assert (f"layers.0.{place}.norm.weight" in v) == expected
            assert (adaptation.norm(0, place, own) is not own) == expected


@every_method
def test_memory_counts_every_number_at_its_width(tiny_base: BaseModel, method: AnyMethod) -> None:
    v = start(method, tiny_base)
    norms = sum(tensor.numel() for name, tensor in v.items() if "norm" in name)
    exact = norms + sum(tensor.numel() for name, tensor in v.items() if "prefix" in name)  # attention runs in float32
    others = sum(tensor.numel() for tensor in v.values()) - exact
    assert method.adapt(tiny_base.dims, v, torch.float32).nbytes == 4 * (others + exact)
    assert method.adapt(tiny_base.dims, v, torch.bfloat16).nbytes == 2 * others + 4 * exact


@every_method
def test_gradients_reach_every_tensor(tiny_base: BaseModel, method: AnyMethod) -> None:
    v = {name: tensor.requires_grad_() for name, tensor in randomised(method, tiny_base).items()}
    adaptation = method.adapt(tiny_base.dims, v, torch.float32)
    batch = pack([random_row(7), random_row(9)], [adaptation.prefix_length] * 2)
    hidden = encode(tiny_base.weights, batch, [Group(slice(0, 2), slice(0, 16), adaptation)])
    if not v:
        assert not hidden.requires_grad
        return
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0))  # a norm's own sum is constant
    (hidden * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert not any(tensor.requires_grad for tensor in tiny_base.weights.tensors())
    for name, tensor in v.items():
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name
        assert tensor.grad.abs().max() > 1e-6, name


@pytest.mark.parametrize(
    ("method", "cause"),
    [
        (Houlsby(layers=(1, 1)), r"method\.layers names a layer twice: \[1, 1\]"),
        (Pfeiffer(layers=(0, 2, 3)), r"method\.layers names \[2, 3\], but the base has layers 0 to 1"),
        (Lora(layers=(2,)), r"method\.layers names \[2\]"),
        (Head(layers=(2,)), r"method\.layers names \[2\]"),
        (Lora(targets=("key", "key")), r"method\.targets names one twice: \['key', 'key'\]"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_the_base_is_refused(tiny_base: BaseModel, method: AnyMethod, cause: str) -> None:
    with pytest.raises(BadAdapter, match=f"^manifest: {cause}"):
        expected_shapes(make_manifest(tiny_base, method=method), tiny_base.dims)


@every_method
def test_a_config_that_fits_is_not(tiny_base: BaseModel, method: AnyMethod) -> None:
    assert method.check(tiny_base.dims) is None


def _merged(layer: Layer, number: int, method: Lora, v: Mapping[str, Tensor]) -> Layer:
    """The layer with W + alpha/rank · B·A in place of each W (Hu et al. 2021, section 4.1)."""
    q, k, t = layer.qkv.weight.chunk(3)
    w = {"query": q, "key": k, "value": t}
    w |= {site: getattr(layer, site).weight for site in ("attention_out", "ffn_in", "ffn_out")}
    for target in method.targets:
        up, down = (v[f"layers.{number}.{target}.{part}.weight"] for part in ("up", "down"))
        w[target] = w[target] + method.alpha / method.rank * up @ down
    return layer._replace(
        qkv=Linear(torch.cat([w["query"], w["key"], w["value"]]), layer.qkv.bias),
        attention_out=Linear(w["attention_out"], layer.attention_out.bias),
        ffn_in=Linear(w["ffn_in"], layer.ffn_in.bias),
        ffn_out=Linear(w["ffn_out"], layer.ffn_out.bias),
    )


def _by_hand(base: BaseModel, v: Mapping[str, Tensor], method: AnyMethod) -> Tensor:
    """One row of random tokens through the encoder, with whatever `v` holds at its place."""
    w, row, n = base.weights, random_row(17), 17
    assert w.embeddings.type is not None
    assert w.embeddings.position is not None
    x = w.embeddings.word[row.ids] + w.embeddings.position[:n] + w.embeddings.type[row.types]
    x = F.layer_norm(x, (32,), *w.embeddings.norm, w.norm_eps)
    for index, layer in enumerate(w.layers):
        at = f"layers.{index}"
        none = torch.zeros(0, 32)
        q, k, t = layer.qkv(x).chunk(3, dim=1)
        k = torch.cat([v.get(f"{at}.prefix.key", none), k])
        t = torch.cat([v.get(f"{at}.prefix.value", none), t])
        mixed = []
        for head in range(4):
            own = slice(8 * head, 8 * head + 8)
            mixed.append(torch.softmax(q[:, own] @ k[:, own].T / math.sqrt(8), dim=1) @ t[:, own])
        x = _norm(layer.attention_out(torch.cat(mixed, dim=1)) + x, v, f"{at}.attention", layer.attention_norm, w)
        y = layer.ffn_out(F.gelu(layer.ffn_in(x)))
        if isinstance(method, BottleneckMethod):
            activation: Callable[[Tensor], Tensor] = {"relu": F.relu, "swish": F.silu}[method.activation]
            read = x if method.name == "parallel" else y
            inner = activation(read @ v[f"{at}.ffn.down.weight"].T + v[f"{at}.ffn.down.bias"])
            y = y + inner @ v[f"{at}.ffn.up.weight"].T + v[f"{at}.ffn.up.bias"]
        x = _norm(y + x, v, f"{at}.ffn", layer.ffn_norm, w)
    return x


def _norm(x: Tensor, v: Mapping[str, Tensor], site: str, own: Norm, w: Weights) -> Tensor:
    gain, bias = v.get(f"{site}.norm.weight", own.gain), v.get(f"{site}.norm.bias", own.bias)
    centred = x - x.mean(1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(1, keepdim=True) + w.norm_eps) * gain + bias
