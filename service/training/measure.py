"""How good answers are: the metric with its uncertainty, by label, and how honest the scores are.

Only answers are looked at, never raw outputs, so a file on this machine and a service elsewhere are measured alike.
"""

from collections.abc import Sequence
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.adapters.manifest import Manifest
from service.tasks import Answer, Label, kind_of
from service.tasks.metrics import Counts, Doubles, calibration_error, confusion

SHARES = ("accuracy", "exact_match")  # metrics that are a plain share of right answers
RESAMPLES = 1000
MAX_CONFUSION_LABELS = 100
MAX_MISTAKES = 20


class Interval(NamedTuple):
    low: float
    high: float


class Mistake(NamedTuple):
    right: str
    answered: str
    rows: int


class Measured(NamedTuple):
    """What a set of answers is worth."""

    metric: str
    value: float
    interval: Interval  # 95 %
    rows: int
    others: dict[str, float]  # the kind's further metrics
    by_label: dict[str, Counts]
    confusion: list[list[int]] | None  # classification with few labels: right label by answered label
    mistakes: list[Mistake]  # classification: the most frequent ones, first the one made most
    calibration_error: float | None  # classification: expected, over 15 bins

    def facts(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return self._asdict() | {
            "by_label": {label: counts.facts() for label, counts in self.by_label.items()},
            "mistakes": [mistake._asdict() for mistake in self.mistakes],
        }


def measure_answers(
    manifest: Manifest, answers: Sequence[Answer], labels: Sequence[Label], metric: str | None = None
) -> Measured:
    """Measures answers against the labels of the same inputs.

    Args:
        metric: one of the kind's; its first when left out.
    """
    kind = kind_of(manifest)
    metric = metric or kind.metrics[0]
    tallies = np.array(
        [kind.tally(manifest, answer, label) for answer, label in zip(answers, labels, strict=True)], dtype=float
    )
    table, mistakes, error = None, [], None
    if manifest.kind == "classification":
        whole = confusion(tallies, len(manifest.labels))[:, :-1].astype(int)
        table = whole.tolist() if len(manifest.labels) <= MAX_CONFUSION_LABELS else None
        mistakes = _mistakes(manifest.labels, whole)
        scores = np.array([answer["score"] for answer in answers])
        error = calibration_error(scores, (tallies[:, 0] == tallies[:, 1]).astype(float))
    value = kind.figure(manifest, metric, tallies)
    return Measured(
        metric=metric,
        value=value,
        interval=_wilson(value, len(tallies)) if metric in SHARES else _resampled(manifest, metric, tallies),
        rows=len(tallies),
        others={name: kind.figure(manifest, name, tallies) for name in kind.metrics if name != metric},
        by_label=kind.counts(manifest, tallies),
        confusion=table,
        mistakes=mistakes,
        calibration_error=error,
    )


def value_of(manifest: Manifest, metric: str, answers: Sequence[Answer], labels: Sequence[Label]) -> float:
    """The metric alone."""
    kind = kind_of(manifest)
    tallies = [kind.tally(manifest, answer, label) for answer, label in zip(answers, labels, strict=True)]
    return kind.figure(manifest, metric, np.array(tallies, dtype=float))


def _mistakes(labels: Sequence[str], table: NDArray[np.int64]) -> list[Mistake]:
    wrong = table.copy()
    np.fill_diagonal(wrong, 0)
    worst = np.argsort(-wrong, axis=None, kind="stable")[:MAX_MISTAKES]
    cells = [(int(cell) // len(labels), int(cell) % len(labels)) for cell in worst]
    return [
        Mistake(labels[right], labels[found], int(wrong[right, found])) for right, found in cells if wrong[right, found]
    ]


def _wilson(share: float, rows: int) -> Interval:
    """Wilson's 95 % interval of a share (Wilson 1927): no answer wrong out of a few still is no certainty."""
    z = 1.96
    middle, half = share + z**2 / (2 * rows), z * sqrt(share * (1 - share) / rows + (z / (2 * rows)) ** 2)
    low, high = ((middle + side * half) / (1 + z**2 / rows) for side in (-1, 1))
    return Interval(max(0.0, min(share, low)), min(1.0, max(share, high)))  # rounding left aside


def _resampled(manifest: Manifest, metric: str, tallies: Doubles) -> Interval:
    """Percentiles of the bootstrap (Efron 1979): the metric of answers drawn from these, with replacement."""
    kind, generator = kind_of(manifest), np.random.default_rng(0)
    values = [
        kind.figure(manifest, metric, tallies[generator.integers(0, len(tallies), len(tallies))])
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(float(low), float(high))
