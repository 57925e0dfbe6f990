"""What a kind of task is: the head's shapes, its maths, its loss, its answer, and how well it did."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.adapters.manifest import HeadSettings, KindName, Manifest
from service.adapters.methods import Dims, Shape, Tensors

Floats = NDArray[np.float32]


class Prediction(NamedTuple):
    """One input's answer: the JSON object that the caller gets, and the numbers a golden example holds."""

    answer: dict[str, Any]
    outputs: Floats


class Kind(ABC):
    """Stateless: everything particular to one task comes in with its manifest and its head's tensors."""

    name: ClassVar[KindName]
    metric: ClassVar[str]

    @abstractmethod
    def head_shapes(self, manifest: Manifest, dims: Dims) -> dict[str, Shape]:
        """The head's tensors, by name."""

    @abstractmethod
    def features(self, settings: HeadSettings, hidden: Tensor, lengths: Tensor) -> Tensor:
        """What the head reads, from packed token vectors [tokens, hidden] of rows with these lengths [rows].

        Kept apart from `outputs` because nothing here is trained: features of a frozen encoder can be stored.
        """

    @abstractmethod
    def outputs(self, head: Tensors, features: Tensor) -> Tensor:
        """The head's raw outputs, one row of numbers an input."""

    @abstractmethod
    def decode(self, manifest: Manifest, raw: Floats, top_k: int | None = None) -> Prediction:
        """Turns one input's raw outputs into its answer."""

    def targets(self, manifest: Manifest, labels: Sequence[str]) -> Tensor:
        """The labels as a data file writes them, as numbers to train towards.

        Raises:
            ValueError: naming the position and the label that is no label of this task.
        """
        raise NotImplementedError(f"kind {self.name} is not trained")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError(f"kind {self.name} is not trained")

    def score(self, outputs: Floats, targets: NDArray[Any]) -> float:
        """The kind's `metric`; higher is better, 1 is perfect."""
        raise NotImplementedError(f"kind {self.name} is not scored")


def pool(settings: HeadSettings, hidden: Tensor, lengths: Tensor) -> Tensor:
    """One vector a row, [rows, hidden], from packed tokens [tokens, hidden]."""
    if settings.pooling == "first":
        starts = torch.cumsum(lengths, 0) - lengths
        return hidden[starts]
    return torch.segment_reduce(hidden, "mean", lengths=lengths)
