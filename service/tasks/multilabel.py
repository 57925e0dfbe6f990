"""Multilabel: any number of labels out of a fixed set, none included."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from service.adapters.manifest import Calibration, Manifest
from service.tasks.base import Answer, Doubles, Floats, Kind, Label, Labelled, Prediction, check_known, entropy, sigmoid
from service.tasks.calibration import fit_sigmoid_temperature
from service.tasks.metrics import Counts, mean_f1, micro_f1
from service.tasks.reading import Reading

THRESHOLDS = np.linspace(0.05, 0.95, 91)


class Multilabel(Kind):
    """Each label is answered for itself; it is given where its score reaches the manifest's threshold."""

    name = "multilabel"
    metrics = ("micro_f1", "macro_f1")

    def width(self, manifest: Manifest) -> int:
        return len(manifest.labels)

    def decode(
        self, manifest: Manifest, reading: Reading, raw: Sequence[Floats], top_k: int | None = None
    ) -> Prediction:
        scores = sigmoid(raw[0] / manifest.calibration.temperature)
        order = [i for i in np.argsort(-scores, kind="stable") if scores[i] >= manifest.calibration.threshold]
        found = [{"label": manifest.labels[i], "score": float(scores[i])} for i in order]
        return Prediction({"labels": found}, scores)

    def same(self, manifest: Manifest, answer: Answer, other: Answer) -> bool:
        return {one["label"] for one in answer["labels"]} == {one["label"] for one in other["labels"]}

    def check_label(self, manifest: Manifest, label: Label) -> None:
        names = [part for part in label if isinstance(part, str)]
        if isinstance(label, str) or len(names) < len(label):
            raise ValueError(f"{label!r} is not a list of labels")
        check_known(manifest, names)

    def targets(self, manifest: Manifest, reading: Reading, label: Label) -> list[Tensor]:
        return [torch.from_numpy(_flags(manifest, label))]

    def loss(self, outputs: Tensor, targets: Sequence[Tensor], lengths: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, torch.stack(list(targets)))

    def idle_loss(self, targets: Sequence[Tensor]) -> float:
        shares = torch.stack(list(targets)).mean(dim=0)
        return sum(entropy(torch.stack([share, 1 - share])) for share in shares) / len(shares)

    def calibrate(
        self, manifest: Manifest, raw: Sequence[Sequence[Floats]], labelled: Labelled, metric: str
    ) -> Calibration:
        logits = np.stack([rows[0] for rows in raw])
        right = np.stack([_flags(manifest, label) for label in labelled.labels])
        temperature = fit_sigmoid_temperature(logits, right)
        scores = sigmoid(logits / np.float32(temperature))

        def worth(threshold: float) -> tuple[float, float]:
            value = self.figure(manifest, metric, _counted(scores >= threshold, right)[None])
            return value, -abs(threshold - 0.5)

        threshold = max(THRESHOLDS.tolist(), key=worth)
        return manifest.calibration.model_copy(update={"temperature": temperature, "threshold": round(threshold, 4)})

    def tally(self, manifest: Manifest, answer: Answer, label: Label) -> Sequence[float]:
        found = _flags(manifest, tuple(one["label"] for one in answer["labels"])) > 0
        tally: list[float] = _counted(found[None], _flags(manifest, label)[None]).tolist()
        return tally

    def figure(self, manifest: Manifest, metric: str, tallies: Doubles) -> float:
        if metric == "micro_f1":
            return micro_f1(tallies.sum(axis=0))
        return mean_f1(self.counts(manifest, tallies).values())

    def counts(self, manifest: Manifest, tallies: Doubles) -> dict[str, Counts]:
        columns = tallies.sum(axis=0).reshape(3, -1).T
        return {label: Counts(*map(float, column)) for label, column in zip(manifest.labels, columns, strict=True)}


def _flags(manifest: Manifest, label: Label) -> Floats:
    return np.array([one in label for one in manifest.labels], dtype=np.float32)


def _counted(found: NDArray[np.bool_], right: Floats) -> Doubles:
    """[hits, wrong, missed] by label, one after another."""
    wanted = right > 0.5
    parts = [found & wanted, found & ~wanted, ~found & wanted]
    return np.concatenate([part.sum(axis=0) for part in parts]).astype(np.float64)
