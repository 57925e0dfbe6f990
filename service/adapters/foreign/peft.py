"""Adapters of PEFT (`peft` 0.21): LoRA with all that only changes its scale, rank or place.

A folder holds `adapter_config.json` with `adapter_model.safetensors` or `adapter_model.bin`; the head is among the
adapter's tensors.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

from service.adapters.foreign.folder import Only, Tensors, check_fields, number, read_tensors, whole
from service.adapters.foreign.heads import Head, arrange
from service.adapters.foreign.imported import MODEL_PREFIXES, Base, Imported
from service.adapters.foreign.parts import Change, low_ranks
from service.adapters.manifest import KindName
from service.adapters.methods import Dims, Target
from service.errors import BadAdapter

FILES = ("adapter_model.safetensors", "adapter_model.bin")
WRAPPED = "base_model.model."  # before every name
# By our names for the layers of a checkpoint that LoRA may change: what of it is whose.
LINEARS: Mapping[str, tuple[Target, ...]] = {
    "query": ("query",),
    "key": ("key",),
    "value": ("value",),
    "qkv": ("query", "key", "value"),
    "attention_out": ("attention_out",),
    "ffn_in": ("ffn_in",),
    "ffn_out": ("ffn_out",),
}
# By task: the kind, and the head's linear layer.
TASKS: Mapping[str | None, tuple[KindName, str | None]] = {
    "TOKEN_CLS": ("tagging", "classifier"),
    "QUESTION_ANS": ("answer", "qa_outputs"),
    "FEATURE_EXTRACTION": ("embedding", None),
    None: ("embedding", None),
}
REFUSED_TASKS: Mapping[Any, str] = {
    "SEQ_CLS": "a layer with an activation lies between token vectors and labels, and our heads are one linear layer",
}
# Model types whose heads are more than one layer, in every task; what lies before the last is nowhere in the folder.
DEEP_HEADS = ("modernbert",)
# Model types with a second text of its own type, which the library's model for answers keeps from the base.
TYPED = ("bert", "electra")
SCALES = "it scales what frozen layers put out, which no part of ours does"
REFUSED: Mapping[Any, str] = {
    "IA3": SCALES,
    "PREFIX_TUNING": "the library counts the text's positions from behind the prefix, and ours have none",
    "PROMPT_TUNING": "virtual tokens would shift the positions of the text's own",
    "P_TUNING": "virtual tokens would shift the positions of the text's own",
}
BIASES = "our low-rank changes have no biases, and the base's own are frozen"
ONLY = {
    "bias": Only(("none",), BIASES),
    "lora_bias": Only((False, None), BIASES),
    "use_dora": Only((False, None), SCALES),
    "init_lora_weights": Only(
        (True, False, None, "gaussian", "orthogonal"), "such a start changes the base's own weights"
    ),
}
USED = (
    "alpha_pattern", "base_model_name_or_path", "exclude_modules", "layers_to_transform", "lora_alpha", "peft_type",
    "peft_version", "r", "rank_pattern", "target_modules", "task_type", "use_rslora",
)  # fmt: skip
# In training; for other layers than linear ones; or answered by which tensors there are.
IDLE = (
    "auto_mapping", "fan_in_fan_out", "inference_mode", "layers_pattern", "lora_dropout", "megatron_core",
    "modules_to_save", "qalora_group_size", "revision", "runtime_config",
)  # fmt: skip


def read(folder: Path, config: Mapping[str, Any], base: Base, labels: Sequence[str] | None) -> Imported:
    """Reads a folder whose `adapter_config.json` is `config`."""
    kind = config["peft_type"]
    if kind != "LORA":
        raise BadAdapter(f"peft_type = {kind!r} is not supported: {REFUSED.get(kind, 'the method is not known')}")
    check_fields(config, USED, IDLE, ONLY)
    task = config.get("task_type")
    if task not in TASKS:
        raise BadAdapter(f"task_type = {task!r} is not supported: {REFUSED_TASKS.get(task, 'the task is not known')}")
    if TASKS[task][1] is not None and base.model_type in DEEP_HEADS:
        raise BadAdapter(f"task_type = {task!r} is not supported on {base.model_type}: {REFUSED_TASKS['SEQ_CLS']}")
    if task == "QUESTION_ANS" and base.model_type in TYPED:
        raise BadAdapter(
            f"task_type = {task!r} is not supported on {base.model_type}: the library keeps from the base which tokens "
            "are the passage's (token_type_ids), and ours tell it"
        )
    found = read_tensors(folder, FILES)
    if found is None:
        raise BadAdapter(f"there is no {' or '.join(FILES)}")
    tensors = Tensors({name.removeprefix(WRAPPED): tensor for name, tensor in found.items()})
    # A regex, or a pattern of ranks, may speak of names as they are in a model with a head.
    prefix = MODEL_PREFIXES[base.model_type]
    if not any(name.startswith(WRAPPED + prefix) for name in found):
        prefix = ""
    try:
        changes = _changes(config, base, tensors, prefix)
    except re.error as error:
        raise BadAdapter(f"{error.pattern!r} is no regex: {error}") from error
    method, arranged = low_ranks(changes, base.dims)
    head = _head(config, tensors, base.dims, labels)
    tensors.finish()
    ours, rows = arrange(head, labels)
    return Imported(
        method=method,
        kind=head.kind,
        labels=ours,
        pooled_first=False,
        tensors=arranged | rows,
        base_name=str(config.get("base_model_name_or_path") or ""),
        source=f"PEFT ({config.get('peft_version', 'without a version')})",
    )


def _changes(config: Mapping[str, Any], base: Base, tensors: Tensors, prefix: str) -> dict[tuple[int, Target], Change]:
    changes = {}
    for layer, names in enumerate(base.layers):
        for ours, targets in LINEARS.items():
            module = prefix + names[ours] if ours in names else None
            if module is None or not _targeted(config, module, layer):
                continue
            rank = whole({"r": _pattern(config.get("rank_pattern"), module, config.get("r"))}, "r")
            alpha = number({"alpha": _pattern(config.get("alpha_pattern"), module, config.get("lora_alpha"))}, "alpha")
            into, out = _sizes(ours, base.dims)
            down = tensors.take(f"{module}.lora_A.weight", rank, into)
            up = tensors.take(f"{module}.lora_B.weight", out, rank)
            up = up * (alpha / (sqrt(rank) if config.get("use_rslora") else rank))
            for target, rows in zip(targets, up.chunk(len(targets)), strict=True):
                changes[layer, target] = Change(down, rows)
    return changes


def _sizes(linear: str, dims: Dims) -> tuple[int, int]:
    """What goes into a layer and out of it."""
    wide = {
        "ffn_in": (dims.hidden, dims.ffn_in),
        "ffn_out": (dims.inner, dims.hidden),
        "qkv": (dims.hidden, 3 * dims.hidden),
    }
    return wide.get(linear, (dims.hidden, dims.hidden))


def _targeted(config: Mapping[str, Any], module: str, layer: int) -> bool:
    """Whether the config means this module; if it were wrong, a tensor would be missing or left over."""
    wanted = config.get("layers_to_transform")
    if wanted is not None and layer not in (wanted if isinstance(wanted, list) else [wanted]):
        return False
    return _named(config.get("target_modules"), module) and not _named(config.get("exclude_modules"), module)


def _named(names: Any, module: str) -> bool:
    """A regex for whole names, or a list of their ends."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    ends: Collection[str] = names or ()
    return any(module == end or module.endswith(f".{end}") for end in ends)


def _pattern(patterns: Any, module: str, default: Any) -> Any:
    """The value of the first pattern that a name ends in."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _head(config: Mapping[str, Any], tensors: Tensors, dims: Dims, labels: Sequence[str] | None) -> Head:
    """The head; the config does not tell its rows, so the labels do."""
    kind, site = TASKS[config.get("task_type")]
    if site is None:
        return Head()
    rows = 2 if kind == "answer" else len(labels or ())
    if not rows:
        raise BadAdapter("the folder names no labels: name the head's rows with --labels, in their order")
    return Head(kind, tensors.take(f"{site}.weight", rows, dims.hidden), tensors.take(f"{site}.bias", rows))
