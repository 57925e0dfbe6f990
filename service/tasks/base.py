"""What a kind of task is: how it reads, the head's shapes and maths, its loss, its answer, and how well it did."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.adapters.manifest import Calibration, HeadSettings, KindName, Manifest
from service.adapters.methods import Dims, Shape, Tensors
from service.tasks.metrics import Counts
from service.tasks.reading import Reading

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Answer = dict[str, Any]


class Span(NamedTuple):
    """Characters [start, end) of a text, and what they are."""

    start: int
    end: int
    label: str


# What a data file says of one input: a label, a number as text, several labels, or spans of the text.
Label = str | tuple[str, ...] | tuple[Span, ...]


class Prediction(NamedTuple):
    """One input's answer: the JSON object that the caller gets, and the numbers a golden example holds."""

    answer: Answer
    outputs: Floats


class Kind(ABC):
    """Stateless: everything particular to one task comes in with its manifest and its head's tensors."""

    name: ClassVar[KindName]
    metrics: ClassVar[tuple[str, ...]] = ()  # how it can be scored; the first unless another is asked for
    per_token: ClassVar[bool] = False  # the head reads every token, and its answers point into the text
    windowed: ClassVar[bool] = False  # long inputs are read in overlapping windows, not cut
    max_length: ClassVar[int] = 128  # tokens read at once, where a training does not say

    @abstractmethod
    def width(self, manifest: Manifest) -> int:
        """How many numbers the head puts out: for a row, or for each of its tokens."""

    def head_shapes(self, manifest: Manifest, dims: Dims) -> dict[str, Shape]:
        """The head's tensors, by name: one linear layer, unless the kind needs none."""
        width = self.width(manifest)
        return {"head.weight": (width, dims.hidden), "head.bias": (width,)}

    def features(self, settings: HeadSettings, hidden: Tensor, lengths: Tensor) -> Tensor:
        """What the head reads, from packed token vectors [tokens, hidden] of rows with these lengths [rows].

        Kept apart from `outputs` because nothing here is trained: features of a frozen encoder can be stored.
        """
        return hidden if self.per_token else pool(settings, hidden, lengths)

    def outputs(self, head: Tensors, features: Tensor) -> Tensor:
        """The head's raw outputs, one row of numbers for each row of `features`; without a head, the features."""
        return torch.nn.functional.linear(features, head["head.weight"], head["head.bias"]) if head else features

    @abstractmethod
    def decode(
        self, manifest: Manifest, reading: Reading, raw: Sequence[Floats], top_k: int | None = None
    ) -> Prediction:
        """Turns one input's raw outputs into its answer.

        Args:
            raw: by row of the reading, [width], or [tokens, width] where the head reads every token.
        """

    def distance(self, manifest: Manifest, found: Floats, golden: Floats) -> float:
        """How far an input's outputs are from a golden example's, as the manifest's tolerance measures it."""
        return float(np.abs(found - golden).max())

    def same(self, manifest: Manifest, answer: Answer, other: Answer) -> bool | None:
        """Whether two versions' answers to one input come to the same; None where that is no question of yes or no.

        Args:
            manifest: of the active version; the answers may be told in either order.
        """
        return None

    # What a kind that is trained has besides.

    def check_label(self, manifest: Manifest, label: Label) -> None:
        """Whether a data file's label is one of this task.

        Raises:
            ValueError: naming what is wrong with it.
        """
        raise NotImplementedError(f"kind {self.name} is not trained")

    def targets(self, manifest: Manifest, reading: Reading, label: Label) -> list[Tensor]:
        """A label that was checked, as numbers to train towards: one tensor for each row of the reading."""
        raise NotImplementedError(f"kind {self.name} is not trained")

    def loss(self, outputs: Tensor, targets: Sequence[Tensor], lengths: Tensor) -> Tensor:
        """The mean loss of a batch; `outputs` as `outputs` gives them, `targets` by row."""
        raise NotImplementedError(f"kind {self.name} is not trained")

    def judged(self, targets: Sequence[Tensor]) -> int:
        """How many judgements the loss of these targets is the mean of."""
        return len(targets)

    def idle_loss(self, targets: Sequence[Tensor]) -> float:
        """The loss of the best outputs that are the same for every input; infinite where that is not known."""
        return math.inf

    def calibrate(
        self, manifest: Manifest, raw: Sequence[Sequence[Floats]], labelled: "Labelled", metric: str
    ) -> Calibration:
        """Fits what lies between raw outputs and answers to a validation set. The default leaves it as it is.

        Args:
            raw: by reading and row.
            metric: what thresholds shall serve best.
        """
        return manifest.calibration

    # What a kind that is measured has besides. Only answers count, so a file and a service are measured alike.

    def tally(self, manifest: Manifest, answer: Answer, label: Label) -> Sequence[float]:
        """What one answer adds to the metric; of the same length for every answer."""
        raise NotImplementedError(f"kind {self.name} is not scored")

    def figure(self, manifest: Manifest, metric: str, tallies: Doubles) -> float:
        """The metric from tallies [answers, ·]; higher is better, 1 is perfect."""
        raise NotImplementedError(f"kind {self.name} is not scored")

    def counts(self, manifest: Manifest, tallies: Doubles) -> dict[str, Counts]:
        """Hits and misses by label, for kinds that have labels."""
        return {}


def check_known(manifest: Manifest, names: Iterable[str]) -> None:
    """Raises ValueError for the first name that is no label of the task."""
    for name in names:
        if name not in manifest.labels:
            known = ", ".join(manifest.labels[:10]) + (", …" if len(manifest.labels) > 10 else "")
            raise ValueError(f"{name!r} is not one of the labels {known}")


def spans_of(label: Label) -> tuple[Span, ...]:
    """A label that is spans.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(label, str) or not all(isinstance(part, Span) for part in label):
        raise ValueError(f"{label!r} is not a list of spans")
    return label  # type: ignore[return-value]  # checked above


class Labelled(NamedTuple):
    """Inputs as they were read, with their labels, in step."""

    readings: Sequence[Reading]
    labels: Sequence[Label]


def pool(settings: HeadSettings, hidden: Tensor, lengths: Tensor) -> Tensor:
    """One vector a row, [rows, hidden], from packed tokens [tokens, hidden]."""
    if settings.pooling == "first":
        starts = torch.cumsum(lengths, 0) - lengths
        return hidden[starts]
    return torch.segment_reduce(hidden, "mean", lengths=lengths)


def softmax(logits: Floats) -> Floats:
    """Along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]


def sigmoid(logits: Floats) -> Floats:
    return (1 / (1 + np.exp(-np.clip(logits, -80, 80)))).astype(np.float32)


def entropy(shares: Tensor) -> float:
    """Of a distribution [n], in nats: the least cross-entropy that a constant guess at it has."""
    return float(-torch.xlogy(shares, shares).sum())
