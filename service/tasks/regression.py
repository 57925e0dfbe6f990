"""Regression: one number, for a text or a pair."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from service.adapters.manifest import Manifest
from service.tasks.base import Floats, Prediction
from service.tasks.linear import LinearKind


class Regression(LinearKind):
    """The head works in standard units; the manifest's calibration brings them to the data's."""

    name = "regression"
    metric = "spearman"

    def width(self, manifest: Manifest) -> int:
        return 1

    def decode(self, manifest: Manifest, raw: Floats, top_k: int | None = None) -> Prediction:
        value = manifest.calibration.mean + manifest.calibration.deviation * raw
        return Prediction({"value": float(value[0])}, value)

    def targets(self, manifest: Manifest, labels: Sequence[str]) -> Tensor:
        values = []
        for position, label in enumerate(labels):
            value = _number(label)
            if value is None:
                raise ValueError(f"row {position + 1}: {label!r} is not a finite number")
            values.append((value - manifest.calibration.mean) / manifest.calibration.deviation)
        return torch.tensor(values, dtype=torch.float32)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs.squeeze(1), targets)

    def score(self, outputs: Floats, targets: NDArray[Any]) -> float:
        return spearman(outputs[:, 0], targets)


def spearman(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, equal values sharing a mean rank; 0 if one is constant."""
    ranks = [_ranks(first), _ranks(second)]
    if any(r.std() == 0 for r in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    _, group, size = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(size)
    return (last - (size - 1) / 2)[group]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) else None
