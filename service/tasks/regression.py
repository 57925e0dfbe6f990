"""Regression: one number, for a text or a pair."""

from collections.abc import Sequence
from math import isfinite, nan

import torch
import torch.nn.functional as F
from torch import Tensor

from service.adapters.manifest import Manifest
from service.tasks.base import Answer, Doubles, Floats, Kind, Label, Prediction
from service.tasks.metrics import PAIR_METRICS
from service.tasks.reading import Reading

# Values that lie this near come to the same, in standard deviations of the data: what is called a small effect (Cohen
# 1988, "Statistical Power Analysis for the Behavioral Sciences").
SAME = 0.2


class Regression(Kind):
    """The head works in standard units; the manifest's calibration brings them to the data's."""

    name = "regression"
    metrics = tuple(PAIR_METRICS)

    def width(self, manifest: Manifest) -> int:
        return 1

    def decode(
        self, manifest: Manifest, reading: Reading, raw: Sequence[Floats], top_k: int | None = None
    ) -> Prediction:
        value = manifest.calibration.mean + manifest.calibration.deviation * raw[0]
        return Prediction({"value": float(value[0])}, value)

    def distance(self, manifest: Manifest, found: Floats, golden: Floats) -> float:
        return super().distance(manifest, found, golden) / manifest.calibration.deviation  # in the head's own units

    def same(self, manifest: Manifest, answer: Answer, other: Answer) -> bool:
        return bool(abs(answer["value"] - other["value"]) <= SAME * manifest.calibration.deviation)

    def check_label(self, manifest: Manifest, label: Label) -> None:
        number(label)

    def targets(self, manifest: Manifest, reading: Reading, label: Label) -> list[Tensor]:
        return [torch.tensor((number(label) - manifest.calibration.mean) / manifest.calibration.deviation)]

    def loss(self, outputs: Tensor, targets: Sequence[Tensor], lengths: Tensor) -> Tensor:
        return F.mse_loss(outputs.squeeze(1), torch.stack(list(targets)))

    def idle_loss(self, targets: Sequence[Tensor]) -> float:
        return float(torch.stack(list(targets)).var(correction=0))

    def tally(self, manifest: Manifest, answer: Answer, label: Label) -> Sequence[float]:
        return answer["value"], number(label)

    def figure(self, manifest: Manifest, metric: str, tallies: Doubles) -> float:
        return PAIR_METRICS[metric](tallies[:, 0], tallies[:, 1])


def number(label: Label) -> float:
    """A data file's number.

    Raises:
        ValueError: it is none, or not finite.
    """
    try:
        value = float(label)  # type: ignore[arg-type]  # anything else than text raises
    except (TypeError, ValueError):
        value = nan
    if not isfinite(value):
        raise ValueError(f"{label!r} is not a finite number")
    return value
