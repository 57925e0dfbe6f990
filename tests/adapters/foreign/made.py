"""Folders of random numbers as the other libraries write them; and what they mean, on transformers' models."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel

from service.adapters.foreign import Base, Imported
from service.adapters.methods import BARE
from service.engine.architectures import ARCHITECTURES
from service.engine.base_model import BaseModel
from service.engine.encoder import Group, encode
from service.engine.packing import pack
from tests.tiny import random_row

LAYERS, HIDDEN, INNER = 2, 32, 64
Change = Callable[[Tensor, Tensor], Tensor]  # from what enters a module and what leaves it to what shall leave it

BOTTLENECK: dict[str, Any] = {  # what AdapterHub saves of double_seq_bn
    "adapter_residual_before_ln": False, "cross_adapter": False, "dropout": 0.0, "factorized_phm_W": True,
    "factorized_phm_rule": False, "hypercomplex_nonlinearity": "glorot-uniform", "init_weights": "bert",
    "init_weights_seed": None, "inv_adapter": None, "inv_adapter_reduction_factor": None, "is_parallel": False,
    "learn_phm": True, "leave_out": [], "ln_after": False, "ln_before": False, "mh_adapter": True,
    "non_linearity": "swish", "original_ln_after": True, "original_ln_before": False, "output_adapter": True,
    "phm_bias": True, "phm_c_init": "normal", "phm_dim": 4, "phm_init_range": 0.0001, "phm_layer": False,
    "phm_rank": 1, "reduction_factor": 8, "residual_before_ln": True, "scaling": 1.0, "shared_W_phm": False,
    "shared_phm_rule": True, "stochastic_depth": 0.0, "use_gating": False,
}  # fmt: skip
LORA: dict[str, Any] = {  # what PEFT saves
    "alpha_pattern": {}, "base_model_name_or_path": "tiny", "bias": "none", "exclude_modules": None,
    "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True, "layers_pattern": None,
    "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 8, "lora_bias": False, "lora_dropout": 0.1,
    "megatron_core": "megatron.core", "modules_to_save": None, "peft_type": "LORA", "peft_version": "0.21.2",
    "qalora_group_size": 16, "r": 4, "rank_pattern": {}, "target_modules": ["query", "value"],
    "task_type": "FEATURE_EXTRACTION", "use_dora": False, "use_rslora": False,
}  # fmt: skip


def foreign_base(base: BaseModel, model_type: str = "bert") -> Base:
    names = [ARCHITECTURES[model_type].layer_names(layer, base.dims.layers) for layer in range(base.dims.layers)]
    return Base(model_type, names, base.dims)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str) -> Path:
    """`name`.safetensors or .bin, and the config beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if name.endswith(".bin"):
        torch.save(dict(tensors), folder / name)
    else:
        save_file(dict(tensors), folder / name)
    return folder


def adapterhub(
    folder: Path, tensors: Mapping[str, Tensor], file: str = "adapter.safetensors", saved: Any = None, **config: Any
) -> Path:
    """A folder of AdapterHub's.

    Args:
        saved: fields beside the config.
        config: fields that differ from double_seq_bn's, unless they name another architecture.
    """
    whole = config if "architecture" in config else BOTTLENECK | config
    facts = {
        "model_type": "bert",
        "model_name": "tiny",
        "name": "n",
        "hidden_size": HIDDEN,
        "version": "adapters.1.3.0",
    }
    return write(folder, {**facts, "config": whole, **(saved or {})}, tensors, file)


def head(folder: Path, kind: str, rows: int, labels: Any = None, **config: Any) -> tuple[Tensor, Tensor]:
    """A flexible head beside an adapter; gives its weight and bias."""
    weight, bias = noise(rows, HIDDEN, seed=7), noise(rows, seed=8)
    save_file({"heads.n.1.weight": weight, "heads.n.1.bias": bias}, folder / "model_head.safetensors")
    facts = {"head_type": kind, "num_labels": rows, "layers": 1, "activation_function": "tanh", "dropout_prob": None}
    numbers = {label: row for row, label in enumerate(labels)} if labels else None
    whole = {"name": "n", "config": facts | {"label2id": numbers} | config}
    (folder / "head_config.json").write_text(json.dumps(whole))
    return weight, bias


def bottlenecks(
    layers: Mapping[int, int], places: tuple[str, ...] = ("attention.output", "output")
) -> dict[str, Tensor]:
    """AdapterHub's tensors, from the size by layer."""
    found = {}
    for layer, size in layers.items():
        for seed, place in enumerate(places):
            site = f"bert.encoder.layer.{layer}.{place}.adapters.n"
            found[f"{site}.adapter_down.0.weight"] = noise(size, HIDDEN, seed=seed + layer)
            found[f"{site}.adapter_down.0.bias"] = noise(size, seed=seed + layer)
            found[f"{site}.adapter_up.weight"] = noise(HIDDEN, size, seed=seed + layer)
            found[f"{site}.adapter_up.bias"] = noise(HIDDEN, seed=seed + layer)
    return found


def low_ranks(modules: Mapping[str, int], prefix: str = "base_model.model.") -> dict[str, Tensor]:
    """PEFT's tensors, from the rank by module."""
    found = {}
    for seed, (module, rank) in enumerate(modules.items()):
        into = INNER if module.endswith("r.0.output.dense") or module.endswith("r.1.output.dense") else HIDDEN
        out = INNER if module.endswith("intermediate.dense") else HIDDEN
        found[f"{prefix}{module}.lora_A.weight"] = noise(rank, into, seed=seed)
        found[f"{prefix}{module}.lora_B.weight"] = noise(out, rank, seed=seed + 50)
    return found


def assert_same(base: BaseModel, folder: Path, imported: Imported, changes: Mapping[str, Change]) -> None:
    """Our encoder with what was imported gives what transformers' gives whose modules are changed."""
    rows = [random_row(length, seed) for seed, length in enumerate((3, 17, 30))]
    v = {name: tensor for name, tensor in imported.tensors.items() if not name.startswith("head.")}
    assert v.keys() == imported.method.shapes(base.dims).keys()
    adaptation = imported.method.adapt(base.dims, v, torch.float32)
    batch = pack(rows)
    model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    for name, change in changes.items():
        model.get_submodule(name).register_forward_hook(
            lambda module, entered, left, change=change: change(entered[0], left)
        )
    with torch.inference_mode():
        found = encode(base.weights, batch, [Group(slice(0, len(rows)), slice(0, len(batch.ids)), adaptation)])
        bare = encode(base.weights, batch, [Group(slice(0, len(rows)), slice(0, len(batch.ids)), BARE)])
        expected = torch.cat([model(torch.from_numpy(row.ids)[None]).last_hidden_state[0] for row in rows])
    assert (found - bare).abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
