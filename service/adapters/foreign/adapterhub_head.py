"""AdapterHub's heads: flexible ones, which a config describes, and the static ones of a model's class."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.adapters.foreign.folder import Only, Tensors, check_fields, read_config, read_tensors, whole
from service.adapters.foreign.heads import Head
from service.adapters.manifest import KindName
from service.errors import BadAdapter

CONFIG = "head_config.json"
FILES = ("model_head.safetensors", "pytorch_model_head.bin")
FLEXIBLE: Mapping[str, KindName] = {
    "classification": "classification",
    "multilabel_classification": "multilabel",
    "tagging": "tagging",
    "question_answering": "answer",
}
# By the end of a class's name: the kind, and its linear layer.
STATIC: Mapping[str, tuple[KindName, str]] = {
    "ForTokenClassification": ("tagging", "classifier"),
    "ForQuestionAnswering": ("answer", "qa_outputs"),
}
ONE_LAYER = "a layer with an activation would lie before the labels, and our heads are one linear layer"
ONLY = {
    "layers": Only((1,), ONE_LAYER),
    "use_pooler": Only((False, None), f"the pooler is such: {ONE_LAYER}"),
}


def read_head(folder: Path, hidden: int) -> Head:
    """The head that lies beside an adapter; none where there are no files of one."""
    read = read_tensors(folder, FILES)
    if read is None:
        if (folder / CONFIG).is_file():
            raise BadAdapter(f"there is {CONFIG}, but no {' or '.join(FILES)}")
        return Head()
    saved, tensors = read_config(folder / CONFIG), Tensors(read)
    head = _flexible(saved, tensors, hidden) if saved.get("config") else _static(saved, tensors, hidden)
    tensors.finish()
    return head


def _flexible(saved: Mapping[str, Any], tensors: Tensors, hidden: int) -> Head:
    config = saved["config"]
    kind = FLEXIBLE.get(config.get("head_type"))
    if kind is None:
        known = ", ".join(FLEXIBLE)
        raise BadAdapter(f"head_type = {config.get('head_type')!r} is not supported; known are {known}")
    used = ("head_type", "num_labels", "label2id", "bias")
    check_fields(config, used, ("activation_function", "dropout_prob"), ONLY)
    rows = whole(config, "num_labels")
    site = f"heads.{saved.get('name')}.1"  # what lies before the linear layer is dropout
    weight = tensors.take(f"{site}.weight", rows, hidden)
    bias = tensors.take(f"{site}.bias", rows) if config.get("bias", True) else torch.zeros(rows)
    return _headed(kind, weight, bias, config.get("label2id"))


def _static(saved: Mapping[str, Any], tensors: Tensors, hidden: int) -> Head:
    name = str(saved.get("model_class"))
    found = next((row for end, row in STATIC.items() if name.endswith(end)), None)
    if found is None:
        raise BadAdapter(f"model_class = {name!r} is not supported: {ONE_LAYER}")
    kind, site = found
    rows = 2 if kind == "answer" else whole(saved, "num_labels")
    weight, bias = tensors.take(f"{site}.weight", rows, hidden), tensors.take(f"{site}.bias", rows)
    return _headed(kind, weight, bias, saved.get("label2id"))


def _headed(kind: KindName, weight: Tensor, bias: Tensor, numbers: Any) -> Head:
    """The head with its labels, which `numbers` has in any order."""
    if kind == "classification" and len(weight) == 1:
        kind = "regression"
    if kind == "answer" and len(weight) != 2:
        raise BadAdapter(f"num_labels = {len(weight)} is not supported: an answer has a start and an end")
    if not numbers:
        return Head(kind, weight, bias)
    return Head(kind, weight, bias, sorted(map(str, numbers), key=lambda label: numbers[label]))
