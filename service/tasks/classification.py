"""Classification: one label out of a fixed set, for a text or a pair."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from service.adapters.manifest import Manifest
from service.tasks.base import Floats, Prediction
from service.tasks.linear import LinearKind


class Classification(LinearKind):
    name = "classification"
    metric = "accuracy"

    def width(self, manifest: Manifest) -> int:
        return len(manifest.labels)

    def decode(self, manifest: Manifest, raw: Floats, top_k: int | None = None) -> Prediction:
        scores = _softmax(raw / manifest.calibration.temperature)
        order = np.argsort(-scores, kind="stable")[:top_k]
        ranked = [{"label": manifest.labels[i], "score": float(scores[i])} for i in order]
        return Prediction({**ranked[0], "scores": ranked}, scores)

    def targets(self, manifest: Manifest, labels: Sequence[str]) -> Tensor:
        number = {label: index for index, label in enumerate(manifest.labels)}
        for position, label in enumerate(labels):
            if label not in number:
                raise ValueError(f"row {position + 1}: {label!r} is not one of the labels {manifest.labels}")
        return torch.tensor([number[label] for label in labels])

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def score(self, outputs: Floats, targets: NDArray[Any]) -> float:
        return float((outputs.argmax(axis=1) == targets).mean())


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()  # type: ignore[no-any-return]
