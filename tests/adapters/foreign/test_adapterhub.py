"""What AdapterHub's library saves means the same here, or is refused by name."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from service.adapters.foreign import Imported, read_foreign
from service.engine.base_model import BaseModel
from service.errors import BadAdapter
from tests.adapters.foreign.made import (
    HIDDEN,
    LAYERS,
    Change,
    adapterhub,
    assert_same,
    bottlenecks,
    foreign_base,
    noise,
)

BOTH = ("attention.output", "output")
Function = Callable[[Tensor], Tensor]


def after(
    tensors: dict[str, Tensor], activation: Function, scale: float | Tensor = 1.0, prefix: str = "bert."
) -> dict[str, Change]:
    """Each bottleneck at its sub-layer's projection, by the module that is changed."""

    def change(site: str, entered: Tensor, left: Tensor) -> Tensor:
        parts = ("adapter_down.0.weight", "adapter_down.0.bias", "adapter_up.weight", "adapter_up.bias")
        down, down_bias, up, up_bias = (tensors[f"{site}.{part}"] for part in parts)
        return left + scale * F.linear(activation(F.linear(left, down, down_bias)), up, up_bias)

    sites = {name.rpartition(".adapter_")[0] for name in tensors if ".adapter_" in name}
    return {site.removeprefix(prefix).replace(".adapters.n", ".dense"): partial(change, site) for site in sites}


def _low_rank(a: Tensor, b: Tensor, scale: float, entered: Tensor, left: Tensor) -> Tensor:
    return left + scale * entered @ a.T @ b.T


def taken(folder: Path, base: BaseModel) -> Imported:
    return read_foreign(folder, foreign_base(base))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("swish", F.silu),
        ("relu", F.relu),
        ("gelu", F.gelu),
        ("gelu_new", partial(F.gelu, approximate="tanh")),
        ("tanh", torch.tanh),
        ("leakyrelu", F.leaky_relu),
        ("linear", lambda x: x),
    ],
)
def test_houlsby_with_any_activation(
    tiny_base: BaseModel, tiny_folder: Path, tmp_path: Path, name: str, function: Function
) -> None:
    tensors = bottlenecks({0: 4, 1: 4})
    imported = taken(adapterhub(tmp_path, tensors, non_linearity=name), tiny_base)
    assert imported.method.name == "houlsby"
    assert imported.kind == "embedding"
    assert_same(tiny_base, tiny_folder, imported, after(tensors, function))


def test_a_gelu_of_before_versions_was_another(tiny_base: BaseModel, tiny_folder: Path, tmp_path: Path) -> None:
    tensors = bottlenecks({0: 4, 1: 4})
    folder = adapterhub(tmp_path, tensors, non_linearity="gelu")
    config = (folder / "adapter_config.json").read_text().replace(', "version": "adapters.1.3.0"', "")
    (folder / "adapter_config.json").write_text(config)
    assert_same(tiny_base, tiny_folder, taken(folder, tiny_base), after(tensors, partial(F.gelu, approximate="tanh")))


def test_sizes_by_layer_are_filled_up(tiny_base: BaseModel, tiny_folder: Path, tmp_path: Path) -> None:
    tensors = bottlenecks({0: 16, 1: 4})
    imported = taken(adapterhub(tmp_path, tensors, reduction_factor={"0": 2, "default": 8}), tiny_base)
    assert imported.tensors["layers.1.ffn.down.weight"].shape == (16, HIDDEN)
    assert_same(tiny_base, tiny_folder, imported, after(tensors, F.silu))


def test_layers_may_be_left_out(tiny_base: BaseModel, tiny_folder: Path, tmp_path: Path) -> None:
    tensors = bottlenecks({1: 4})
    imported = taken(adapterhub(tmp_path, tensors, leave_out=[0]), tiny_base)
    assert imported.method.model_dump()["layers"] == (1,)
    assert_same(tiny_base, tiny_folder, imported, after(tensors, F.silu))


@pytest.mark.parametrize(
    ("place", "off", "method"),
    [("output", "mh_adapter", "pfeiffer"), ("attention.output", "output_adapter", "houlsby")],
)
def test_one_sub_layer_alone(
    tiny_base: BaseModel, tiny_folder: Path, tmp_path: Path, place: str, off: str, method: str
) -> None:
    tensors = bottlenecks({0: 4, 1: 4}, (place,))
    config: dict[str, Any] = {off: False}
    imported = taken(adapterhub(tmp_path, tensors, **config), tiny_base)
    assert imported.method.name == method
    assert_same(tiny_base, tiny_folder, imported, after(tensors, F.silu))


@pytest.mark.parametrize("scaling", [2.5, "learned", "channel"])
def test_scales_are_folded_into_the_second_layer(
    tiny_base: BaseModel, tiny_folder: Path, tmp_path: Path, scaling: Any
) -> None:
    tensors = bottlenecks({0: 4, 1: 4})
    scale = {"learned": noise(1) + 2, "channel": noise(HIDDEN) + 2}.get(scaling, torch.tensor([2.5]))
    sites = {name.rpartition(".adapter_")[0] for name in tensors}
    learned = {f"{site}.scaling": scale.clone() for site in sites} if isinstance(scaling, str) else {}
    imported = taken(adapterhub(tmp_path, tensors | learned, scaling=scaling), tiny_base)
    assert_same(tiny_base, tiny_folder, imported, after(tensors, F.silu, scale))


def test_parallel_reads_what_the_sub_layer_reads(tiny_base: BaseModel, tiny_folder: Path, tmp_path: Path) -> None:
    tensors = bottlenecks({0: 4, 1: 4}, ("output",))
    folder = adapterhub(tmp_path, tensors, is_parallel=True, mh_adapter=False, non_linearity="relu", scaling=4.0)
    imported = taken(folder, tiny_base)
    assert imported.method.name == "parallel"
    entered: dict[int, Tensor] = {}

    def remember(layer: int, x: Tensor, y: Tensor) -> Tensor:
        entered[layer] = x
        return y

    def beside(layer: int, x: Tensor, y: Tensor) -> Tensor:
        changed = after(tensors, F.relu, 4.0)[f"encoder.layer.{layer}.output.dense"]
        return y + changed(x, entered[layer]) - entered[layer]

    changes: dict[str, Change] = {}
    for layer in range(LAYERS):
        changes[f"encoder.layer.{layer}.intermediate"] = partial(remember, layer)
        changes[f"encoder.layer.{layer}.output.dense"] = partial(beside, layer)
    assert_same(tiny_base, tiny_folder, imported, changes)


@pytest.mark.parametrize("shared", [True, False])
def test_sums_of_kronecker_products_become_matrices(
    tiny_base: BaseModel, tiny_folder: Path, tmp_path: Path, shared: bool
) -> None:
    tensors, plain, rule = {}, bottlenecks({0: 4, 1: 4}), noise(4, 4, 4)
    for name in list(plain):
        if name.endswith(".bias"):
            tensors[name.removesuffix("bias") + "b"] = plain[name]
            continue
        out, into = plain[name].shape
        site = name.removesuffix(".weight")
        left, right = noise(4, into // 4, 1, seed=1), noise(4, 1, out // 4, seed=2)
        tensors |= {f"{site}.W_left": left, f"{site}.W_right": right}
        if not shared:
            tensors[f"{site}.phm_rule"] = rule.clone()
        plain[name] = sum((torch.kron(rule[i], left[i] @ right[i]) for i in range(4)), torch.zeros(into, out)).T
    if shared:
        tensors["bert.shared_parameters.n.phm_rule"] = rule
    imported = taken(adapterhub(tmp_path, tensors, phm_layer=True, shared_phm_rule=shared), tiny_base)
    assert_same(tiny_base, tiny_folder, imported, after(plain, F.silu))


def test_old_names_and_pickles_are_read(tiny_base: BaseModel, tiny_folder: Path, tmp_path: Path) -> None:
    tensors = bottlenecks({0: 4, 1: 4})
    old = {"attention.output.adapters": "attention.output.attention_text_task_adapters"}
    old |= {".output.adapters": ".output.layer_text_task_adapters"}
    renamed = {}
    for name, tensor in tensors.items():
        now = next(now for now in old if now in name)
        renamed[name.replace(now, old[now])] = tensor
    imported = taken(adapterhub(tmp_path, renamed, "pytorch_adapter.bin"), tiny_base)
    assert_same(tiny_base, tiny_folder, imported, after(tensors, F.silu))


def test_lora_with_its_scale(tiny_base: BaseModel, tiny_folder: Path, tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    changes: dict[str, Change] = {}
    for layer in range(LAYERS):
        for module in ("attention.self.key", "attention.self.value"):
            at = f"encoder.layer.{layer}.{module}"
            a, b = noise(2, HIDDEN, seed=layer), noise(HIDDEN, 2, seed=layer)
            tensors |= {f"bert.{at}.loras.n.lora_A": a, f"bert.{at}.loras.n.lora_B": b}
            changes[at] = partial(_low_rank, a, b, 3.0)
    config: dict[str, Any] = {
        "architecture": "lora",
        "r": 2,
        "alpha": 6,
        "selfattn_lora": True,
        "attn_matrices": ["v", "k"],
    }
    imported = taken(adapterhub(tmp_path, tensors, composition_mode="add", **config), tiny_base)
    assert_same(tiny_base, tiny_folder, imported, changes)


def test_a_prefix_is_what_its_layers_make_of_it(tiny_base: BaseModel, tmp_path: Path) -> None:
    flat = noise(3 * 2 * LAYERS * HIDDEN)
    site = "prefix_tuning.prefix_tunings.n.self_prefix.control_trans"
    tensors = {f"bert.{site}": flat}
    for layer in range(LAYERS):  # as the library names it again
        tensors[f"bert.encoder.layer.{layer}.attention.self.{site.replace('.', '.pool.', 1)}"] = flat
    config: dict[str, Any] = {"architecture": "prefix_tuning", "flat": True, "prefix_length": 3, "cross_prefix": True}
    v = taken(adapterhub(tmp_path, tensors, "pytorch_adapter.bin", **config), tiny_base).tensors
    by_layer = flat.view(3, 2 * LAYERS, HIDDEN)
    for layer in range(LAYERS):
        torch.testing.assert_close(v[f"layers.{layer}.prefix.key"], by_layer[:, 2 * layer])
        torch.testing.assert_close(v[f"layers.{layer}.prefix.value"], by_layer[:, 2 * layer + 1])


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        ({"original_ln_before": True}, "original_ln_before = true is not supported"),
        ({"original_ln_after": False}, "original_ln_after = false is not supported"),
        ({"ln_before": True}, "ln_before = true"),
        ({"ln_after": True}, "ln_after = true"),
        ({"use_gating": True}, "use_gating = true"),
        ({"inv_adapter": "nice"}, 'inv_adapter = "nice"'),
        ({"residual_before_ln": "post_add"}, "residual_before_ln"),
        ({"non_linearity": "mish"}, "non_linearity = 'mish' is not supported"),
        ({"reduction_factor": {"0": 8}}, "reduction_factor = null of layer 1"),
        ({"is_parallel": True}, "beside the attention are not supported"),
        ({"brand_new": 3}, "brand_new = 3 is not supported: the field is not known"),
        ({"architecture": "union", "configs": []}, "architecture = 'union' is not supported: several methods"),
        ({"architecture": "reft"}, "architecture = 'reft' is not supported"),
        ({"architecture": "lora", "composition_mode": "scale"}, r'composition_mode = "scale".*\(IA\)³'),
        ({"architecture": "lora", "use_dora": True}, "use_dora = true"),
        ({"architecture": "prefix_tuning", "leave_out": [1]}, r"leave_out = \[1\]"),
        ({"reduction_factor": 4}, r"adapter_down.0.weight has shape \[4, 32\], expected \[8, 32\]"),
        ({"leave_out": [1]}, r"layer\.1\..*is left over \(and 7 others\)"),
    ],
)
def test_what_is_not_expressible_is_refused_by_name(
    tiny_base: BaseModel, tmp_path: Path, config: dict[str, Any], cause: str
) -> None:
    with pytest.raises(BadAdapter, match=cause):
        taken(adapterhub(tmp_path, bottlenecks({0: 4, 1: 4}), **config), tiny_base)


def test_tensors_missing_or_left_over_are_named(tiny_base: BaseModel, tmp_path: Path) -> None:
    whole, name = bottlenecks({0: 4, 1: 4}), "bert.encoder.layer.1.output.adapters.n.adapter_up.bias"
    cases = {
        rf"tensor {name.removeprefix('bert.')} \[32\] is missing": {k: v for k, v in whole.items() if k != name},
        r"tensor pooler\.dense\.bias \[3\] is left over": whole | {"bert.pooler.dense.bias": noise(3)},
        "holds values that are not finite": whole | {name: torch.full((32,), torch.nan)},
    }
    for number, (cause, tensors) in enumerate(cases.items()):
        with pytest.raises(BadAdapter, match=cause):
            taken(adapterhub(tmp_path / str(number), tensors), tiny_base)
    with pytest.raises(BadAdapter, match="model_type = 'roberta', and the base is of type bert"):
        taken(adapterhub(tmp_path, whole, saved={"model_type": "roberta"}), tiny_base)


class _Code:
    def __reduce__(self) -> Any:
        return (print, ("run",))


def test_a_pickle_of_code_is_not_run(tiny_base: BaseModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = adapterhub(tmp_path, {}, "pytorch_adapter.bin")
    torch.save({"a": _Code()}, folder / "pytorch_adapter.bin")
    with pytest.raises(BadAdapter, match=r"pytorch_adapter\.bin cannot be read"):
        taken(folder, tiny_base)
    assert capsys.readouterr().out == ""
