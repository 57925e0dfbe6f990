"""Figures of merit, from counts and from pairs of numbers. All are 1 for a perfect task."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


class Counts(NamedTuple):
    """How often a label was found rightly, found wrongly, and missed."""

    hits: float
    wrong: float
    missed: float

    @property
    def precision(self) -> float:
        return _ratio(self.hits, self.hits + self.wrong)

    @property
    def recall(self) -> float:
        return _ratio(self.hits, self.hits + self.missed)

    @property
    def f1(self) -> float:
        return _ratio(2 * self.hits, 2 * self.hits + self.wrong + self.missed)

    def facts(self) -> dict[str, float]:
        return self._asdict() | {"precision": self.precision, "recall": self.recall, "f1": self.f1}


def confusion(pairs: Doubles, labels: int) -> Doubles:
    """How often each label (row) was answered by each (column), from pairs (right, answered) of label numbers.

    An answer that is no label of the task counts as a miss: the last column.
    """
    right, answered = pairs[:, 0].astype(int), pairs[:, 1].astype(int)
    cells = np.bincount(right * (labels + 1) + answered, minlength=labels * (labels + 1))
    return cells.reshape(labels, labels + 1).astype(float)


def accuracy(table: Doubles) -> float:
    return _ratio(float(np.trace(table)), float(table.sum()))


def macro_f1(table: Doubles) -> float:
    return mean_f1(by_label(table))


def mean_f1(counts: Iterable[Counts]) -> float:
    """The mean F1 of the labels that occur, in the data or in the answers."""
    found = [one.f1 for one in counts if one.hits + one.wrong + one.missed]
    return float(np.mean(found)) if found else 0.0


def matthews(table: Doubles) -> float:
    """Matthews' correlation, for any number of labels (Gorodkin 2004); 0 where one side is constant."""
    right, answered, rows = table.sum(axis=1), table.sum(axis=0), table.sum()
    squares = (rows**2 - (answered**2).sum()) * (rows**2 - (right**2).sum())
    return float((np.trace(table) * rows - right @ answered[:-1]) / np.sqrt(squares)) if squares > 0 else 0.0


def by_label(table: Doubles) -> list[Counts]:
    hits = np.diagonal(table)
    wrong, missed = table.sum(axis=0)[:-1] - hits, table.sum(axis=1) - hits
    return [Counts(*map(float, counts)) for counts in zip(hits, wrong, missed, strict=True)]


def micro_f1(counts: Doubles) -> float:
    """F1 over all labels together, from summed [hits, wrong, missed] by label."""
    return Counts(*map(float, counts.reshape(3, -1).sum(axis=1))).f1


TABLE_METRICS: dict[str, Callable[[Doubles], float]] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "matthews": matthews,
}


def pearson(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Pearson's correlation; 0 if one side is constant."""
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def spearman(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, equal values sharing a mean rank."""
    return pearson(_ranks(first), _ranks(second))


PAIR_METRICS: dict[str, Callable[[Doubles, Doubles], float]] = {"spearman": spearman, "pearson": pearson}


def calibration_error(confidence: Doubles, right: Doubles, bins: int = 15) -> float:
    """Expected calibration error: how far confidence lies from the share that is right, over bins of equal width."""
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    weight = np.bincount(number, minlength=bins)
    gap = np.abs(np.bincount(number, confidence, bins) - np.bincount(number, right, bins))
    return float(gap.sum() / max(1, weight.sum()))


def _ranks(values: NDArray[Any]) -> Doubles:
    _, group, size = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(size)
    ranks: Doubles = (last - (size - 1) / 2)[group]
    return ranks


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
