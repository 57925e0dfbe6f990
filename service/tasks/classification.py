"""Classification: one label out of a fixed set, for a text or a pair."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from service.adapters.manifest import Calibration, Manifest
from service.tasks.base import Answer, Doubles, Floats, Kind, Label, Labelled, Prediction, check_known, entropy, softmax
from service.tasks.calibration import fit_temperature
from service.tasks.metrics import TABLE_METRICS, Counts, by_label, confusion
from service.tasks.reading import Reading


class Classification(Kind):
    name = "classification"
    metrics = tuple(TABLE_METRICS)

    def width(self, manifest: Manifest) -> int:
        return len(manifest.labels)

    def decode(
        self, manifest: Manifest, reading: Reading, raw: Sequence[Floats], top_k: int | None = None
    ) -> Prediction:
        scores = softmax(raw[0] / manifest.calibration.temperature)
        order = np.argsort(-scores, kind="stable")[:top_k]
        ranked = [{"label": manifest.labels[i], "score": float(scores[i])} for i in order]
        return Prediction({**ranked[0], "scores": ranked}, scores)

    def same(self, manifest: Manifest, answer: Answer, other: Answer) -> bool:
        return bool(answer["label"] == other["label"])

    def check_label(self, manifest: Manifest, label: Label) -> None:
        if not isinstance(label, str):
            raise ValueError(f"{label!r} is not one label")
        check_known(manifest, [label])

    def targets(self, manifest: Manifest, reading: Reading, label: Label) -> list[Tensor]:
        return [torch.tensor(manifest.labels.index(str(label)))]

    def loss(self, outputs: Tensor, targets: Sequence[Tensor], lengths: Tensor) -> Tensor:
        return F.cross_entropy(outputs, torch.stack(list(targets)))

    def idle_loss(self, targets: Sequence[Tensor]) -> float:
        return entropy(torch.bincount(torch.stack(list(targets))) / len(targets))

    def calibrate(
        self, manifest: Manifest, raw: Sequence[Sequence[Floats]], labelled: Labelled, metric: str
    ) -> Calibration:
        right = np.array([manifest.labels.index(str(label)) for label in labelled.labels])
        temperature = fit_temperature(np.stack([rows[0] for rows in raw]), right)
        return manifest.calibration.model_copy(update={"temperature": temperature})

    def tally(self, manifest: Manifest, answer: Answer, label: Label) -> Sequence[float]:
        labels = manifest.labels
        found = answer["label"]
        return labels.index(str(label)), labels.index(found) if found in labels else len(labels)

    def figure(self, manifest: Manifest, metric: str, tallies: Doubles) -> float:
        return TABLE_METRICS[metric](confusion(tallies, len(manifest.labels)))

    def counts(self, manifest: Manifest, tallies: Doubles) -> dict[str, Counts]:
        return dict(zip(manifest.labels, by_label(confusion(tallies, len(manifest.labels))), strict=True))
