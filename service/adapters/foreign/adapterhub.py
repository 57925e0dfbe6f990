"""Adapters of AdapterHub's library (`adapters` 1.3, and `adapter-transformers` before it).

A folder holds `adapter_config.json` with `pytorch_adapter.bin` or `adapter.safetensors`, and for the head
`head_config.json` with `pytorch_model_head.bin` or `model_head.safetensors`. Poth et al. 2023 (arXiv 2311.11077).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.adapters.foreign import adapterhub_bottleneck
from service.adapters.foreign.adapterhub_head import read_head
from service.adapters.foreign.folder import Only, Tensors, check_fields, number, read_tensors, whole
from service.adapters.foreign.heads import arrange
from service.adapters.foreign.imported import MODEL_PREFIXES, Base, Imported
from service.adapters.foreign.parts import Arranged, Change, low_ranks, prefixes
from service.adapters.methods import Target
from service.adapters.methods.adaptation import ACTIVATIONS
from service.errors import BadAdapter

FILES = ("adapter.safetensors", "pytorch_adapter.bin")
MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "distilbert", "electra")  # that the library and our engine both run
LEGACY = {  # what early versions called a bottleneck's place
    "attention_text_task_adapters": "adapters",
    "attention_text_lang_adapters": "adapters",
    "layer_text_task_adapters": "adapters",
    "layer_text_lang_adapters": "adapters",
    "invertible_lang_adapters": "invertible_adapters",
}
SHARED_PREFIX = re.compile(r".*\.prefix_tuning\.pool\.")  # every layer names the one prefix again
PREFIX_PLACES = {"distilbert": "self"}  # "self_prefix" in the others
NO_GATES = Only((False, None), "how much of the adapter counts would depend on the text")
LORA_TARGETS: Mapping[str, Target] = {"q": "query", "k": "key", "v": "value"}
LORA_ONLY = {
    "composition_mode": Only(("add",), "(IA)³ scales what frozen layers put out, which no part of ours does"),
    "use_gating": NO_GATES,
    "use_dora": Only((False, None), "it scales what frozen layers put out, which no part of ours does"),
    "vera_d": Only((None,), "VeRA's shared matrices are not known"),
    "vera_b": Only((None,), "VeRA's shared matrices are not known"),
}
PREFIX_ONLY = {
    "use_gating": NO_GATES,
    "leave_out": Only(([], None), "our prefixes are in every layer"),
}
TRAINING = ("architecture", "dropout", "init_weights", "init_weights_seed", "dtype")


def read(folder: Path, saved: Mapping[str, Any], base: Base, labels: Sequence[str] | None) -> Imported:
    """Reads a folder whose `adapter_config.json` is `saved`."""
    if saved["model_type"] != base.model_type or base.model_type not in MODEL_TYPES:
        known = ", ".join(MODEL_TYPES)
        raise BadAdapter(
            f"model_type = {saved['model_type']!r}, and the base is of type {base.model_type}; "
            f"both must be the same, one of {known}"
        )
    if saved.get("hidden_size") not in (None, base.dims.hidden):
        raise BadAdapter(f"hidden_size = {saved['hidden_size']}, but the base has {base.dims.hidden}")
    config, name = saved.get("config"), saved.get("name")
    if not isinstance(config, dict) or not isinstance(name, str):
        raise BadAdapter("adapter_config.json needs a config with all its fields, and a name")
    architecture = config.get("architecture")
    if architecture not in READERS:
        raise BadAdapter(f"architecture = {architecture!r} is not supported: {REFUSED.get(architecture, 'not known')}")
    tensors = _tensors(folder, base)
    method, arranged = READERS[architecture](config, saved, base, tensors, name)
    tensors.finish()
    head = read_head(folder, base.dims.hidden)
    ours, rows = arrange(head, labels)
    return Imported(
        method=method,
        kind=head.kind,
        labels=ours,
        pooled_first=head.weight is not None,
        tensors=arranged | rows,
        base_name=str(saved.get("model_name") or ""),
        source=f"AdapterHub ({saved.get('version', 'without a version')})",
    )


def _tensors(folder: Path, base: Base) -> Tensors:
    """The adapter's tensors, by names from the encoder on, as today's versions give them."""
    read = read_tensors(folder, FILES)
    if read is None:
        raise BadAdapter(f"there is no {' or '.join(FILES)}")
    found: dict[str, Tensor] = {}
    for name, tensor in read.items():
        short = name.removeprefix(MODEL_PREFIXES[base.model_type])
        for old, new in LEGACY.items():
            short = short.replace(old, new)
        short = SHARED_PREFIX.sub("prefix_tuning.", short)
        if short in found and not torch.equal(found[short], tensor):
            raise BadAdapter(f"tensor {name} is there twice, with different numbers")
        found[short] = tensor
    return Tensors(found)


def _lora(config: Mapping[str, Any], saved: Mapping[str, Any], base: Base, tensors: Tensors, name: str) -> Arranged:
    used = ("selfattn_lora", "intermediate_lora", "output_lora", "leave_out", "r", "alpha", "attn_matrices")
    check_fields(config, used, TRAINING, LORA_ONLY)
    rank = whole(config, "r")
    # Before 1.1 the library left the scale out whatever alpha was, and it loads such files so that they act as trained.
    scale = 1.0 if _before_1_1(str(saved.get("version", ""))) else number(config, "alpha") / rank
    targets: list[Target] = []
    if config.get("selfattn_lora"):
        for matrix in config.get("attn_matrices", ()):
            if matrix not in LORA_TARGETS:
                raise BadAdapter(f"attn_matrices: {matrix!r} is not supported; known are {', '.join(LORA_TARGETS)}")
            targets.append(LORA_TARGETS[matrix])
    targets += ["ffn_in"] if config.get("intermediate_lora") else []
    targets += ["ffn_out"] if config.get("output_lora") else []
    changes = {}
    for layer, names in enumerate(base.layers):
        for target in targets if layer not in (config.get("leave_out") or ()) else ():
            into = base.dims.inner if target == "ffn_out" else base.dims.hidden
            out = base.dims.ffn_in if target == "ffn_in" else base.dims.hidden
            site = f"{names[target]}.loras.{name}"
            down, up = tensors.take(f"{site}.lora_A", rank, into), tensors.take(f"{site}.lora_B", out, rank)
            changes[layer, target] = Change(down, up * scale)
    return low_ranks(changes, base.dims)


def _before_1_1(version: str) -> bool:
    found = re.match(r"adapters\.(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) < (1, 1)


def _prefix(config: Mapping[str, Any], saved: Mapping[str, Any], base: Base, tensors: Tensors, name: str) -> Arranged:
    used = ("flat", "prefix_length", "bottleneck_size", "non_linearity", "encoder_prefix")
    check_fields(config, used, (*TRAINING, "cross_prefix", "shared_gating"), PREFIX_ONLY)
    length, hidden, both = whole(config, "prefix_length"), base.dims.hidden, 2 * base.dims.layers
    site = f"prefix_tuning.prefix_tunings.{name}.{PREFIX_PLACES.get(base.model_type, 'self_prefix')}"
    if config.get("flat"):
        return prefixes(tensors.take(f"{site}.control_trans", length * both * hidden).view(length, both, hidden))
    # The same for every text, so what its two layers make of it is computed once.
    inner, known = whole(config, "bottleneck_size"), dict[Any, Callable[[Tensor], Tensor]](ACTIVATIONS)
    activation = known.get(config.get("non_linearity"))
    if activation is None:
        names = ", ".join(known)
        raise BadAdapter(f"non_linearity = {config.get('non_linearity')!r} is not supported; known are {names}")
    start = tensors.take(f"{site}.wte.weight", length, hidden)
    for part, out, into in (("0", inner, hidden), ("2", both * hidden, inner)):
        weight = tensors.take(f"{site}.control_trans.{part}.weight", out, into)
        start = torch.nn.functional.linear(start, weight, tensors.take(f"{site}.control_trans.{part}.bias", out))
        start = activation(start) if part == "0" else start
    return prefixes(start.view(length, both, hidden))


Reader = Callable[[Mapping[str, Any], Mapping[str, Any], Base, Tensors, str], Arranged]
READERS: Mapping[str | None, Reader] = {None: adapterhub_bottleneck.read, "lora": _lora, "prefix_tuning": _prefix}
REFUSED: Mapping[Any, str] = {
    "union": "several methods in one adapter",
    "prompt_tuning": "virtual tokens would shift the positions of the text's own",
    "reft": "it changes what layers put out at single positions",
    "mtl_lora": "several tasks in one adapter",
}
