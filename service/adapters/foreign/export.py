"""LoRA as PEFT saves it: a config and tensors under the names of the base's checkpoint."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from service.adapters.foreign.imported import MODEL_PREFIXES, Base
from service.adapters.foreign.peft import TYPED, WRAPPED
from service.adapters.manifest import KindName, Manifest
from service.adapters.methods import Lora
from service.errors import BadAdapter

# By kind: PEFT's task, and where its model keeps the linear head.
TASKS: Mapping[KindName, tuple[str, str | None]] = {
    "tagging": ("TOKEN_CLS", "classifier"),
    "answer": ("QUESTION_ANS", "qa_outputs"),
    "embedding": ("FEATURE_EXTRACTION", None),
}
HEADED = ("weight", "bias")


def to_peft(manifest: Manifest, tensors: Mapping[str, Tensor], base: Base) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The contents of `adapter_config.json` and of `adapter_model.safetensors`.

    Raises:
        BadAdapter: PEFT has nothing of that kind.
    """
    method = manifest.method
    if not isinstance(method, Lora):
        raise BadAdapter(f"method {method.name} is not supported: PEFT's is lora")
    if method.norms:
        raise BadAdapter("LayerNorms of the task's own are not supported (method.norms)")
    if manifest.kind not in TASKS:
        known = ", ".join(TASKS)
        raise BadAdapter(f"kind {manifest.kind} is not supported: its head has no equal in PEFT; known are {known}")
    if "query" not in base.layers[0]:
        raise BadAdapter(f"a base of type {base.model_type} is not supported: its queries, keys and values are one")
    if manifest.kind == "answer" and base.model_type in TYPED:
        raise BadAdapter(f"kind answer is not supported on {base.model_type}: PEFT's model hides token types from it")
    task, head = TASKS[manifest.kind]
    prefix = MODEL_PREFIXES[base.model_type] if head else ""
    modules, found = [], {}
    for layer in method.numbers(base.dims):
        for target in method.targets:
            module = prefix + base.layers[layer][target]
            modules.append(module)
            for theirs, ours in (("lora_A", "down"), ("lora_B", "up")):
                found[f"{WRAPPED}{module}.{theirs}.weight"] = tensors[f"layers.{layer}.{target}.{ours}.weight"]
    if head:
        found |= {f"{WRAPPED}{head}.{part}": tensors[f"head.{part}"] for part in HEADED}
    config = {
        "base_model_name_or_path": manifest.base.name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": method.alpha,
        "lora_dropout": 0.0,
        "modules_to_save": [head] if head else None,
        "peft_type": "LORA",
        "r": method.rank,
        "target_modules": modules,
        "task_type": task,
    }
    return config, found
