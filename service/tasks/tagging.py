"""Tagging: the entities in a text, as spans of characters."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from service.adapters.manifest import Calibration, Manifest
from service.tasks.base import (
    Answer,
    Doubles,
    Floats,
    Kind,
    Label,
    Labelled,
    Prediction,
    Span,
    check_known,
    entropy,
    softmax,
    spans_of,
)
from service.tasks.calibration import fit_temperature
from service.tasks.metrics import Counts, micro_f1
from service.tasks.reading import Ids, Reading, TokenizedRow

IGNORED = -100  # tokens that carry no tag
OUTSIDE = 0  # then, for each label, "begins here" and "goes on here"


class Tagging(Kind):
    """A tag for each word, read at its first token (Devlin et al. 2019, arXiv 1810.04805, section 5.3)."""

    name = "tagging"
    metrics = ("f1",)
    per_token = True

    def width(self, manifest: Manifest) -> int:
        return 1 + 2 * len(manifest.labels)

    def decode(
        self, manifest: Manifest, reading: Reading, raw: Sequence[Floats], top_k: int | None = None
    ) -> Prediction:
        text, scores = reading.given.text, softmax(raw[0] / manifest.calibration.temperature)
        entities = [
            {
                "label": manifest.labels[entity.label],
                "text": text[entity.start : entity.end],
                "start": entity.start,
                "end": entity.end,
                "score": entity.score,
            }
            for entity in _entities(reading.rows[0], scores)
        ]
        return Prediction({"entities": entities}, scores.reshape(-1))

    def same(self, manifest: Manifest, answer: Answer, other: Answer) -> bool:
        return _spans(answer) == _spans(other)

    def check_label(self, manifest: Manifest, label: Label) -> None:
        check_known(manifest, (span.label for span in spans_of(label)))

    def targets(self, manifest: Manifest, reading: Reading, label: Label) -> list[Tensor]:
        return [torch.from_numpy(_tags(manifest, reading.rows[0], label))]

    def loss(self, outputs: Tensor, targets: Sequence[Tensor], lengths: Tensor) -> Tensor:
        wrong = F.cross_entropy(outputs, torch.cat(list(targets)), ignore_index=IGNORED, reduction="sum")
        return wrong / max(1, self.judged(targets))  # a text may be without a word

    def judged(self, targets: Sequence[Tensor]) -> int:
        return sum(int((tags != IGNORED).sum()) for tags in targets)

    def idle_loss(self, targets: Sequence[Tensor]) -> float:
        tags = torch.cat(list(targets))
        found = torch.bincount(tags[tags != IGNORED])
        return entropy(found / found.sum())

    def calibrate(
        self, manifest: Manifest, raw: Sequence[Sequence[Floats]], labelled: Labelled, metric: str
    ) -> Calibration:
        tags = np.concatenate(
            [_tags(manifest, reading.rows[0], label) for reading, label in zip(*labelled, strict=True)]
        )
        logits = np.concatenate([rows[0] for rows in raw])
        temperature = fit_temperature(logits[tags != IGNORED], tags[tags != IGNORED])
        return manifest.calibration.model_copy(update={"temperature": temperature})

    def tally(self, manifest: Manifest, answer: Answer, label: Label) -> Sequence[float]:
        """Hits, wrong ones and misses by label; an entity counts only with its label and both its ends."""
        found = _spans(answer)
        right = set(spans_of(label))
        return [
            float(sum(span.label == name for span in part))
            for part in (found & right, found - right, right - found)
            for name in manifest.labels
        ]

    def figure(self, manifest: Manifest, metric: str, tallies: Doubles) -> float:
        return micro_f1(tallies.sum(axis=0))

    def counts(self, manifest: Manifest, tallies: Doubles) -> dict[str, Counts]:
        columns = tallies.sum(axis=0).reshape(3, -1).T
        return {label: Counts(*map(float, column)) for label, column in zip(manifest.labels, columns, strict=True)}


class _Entity(NamedTuple):
    start: int
    end: int
    label: int
    score: float  # the mean of its words' scores


def _spans(answer: Answer) -> set[Span]:
    return {Span(entity["start"], entity["end"], entity["label"]) for entity in answer["entities"]}


def _words(row: TokenizedRow) -> Iterator[tuple[int, int, int]]:
    """Each word of a row: its first token, and its characters [from, to)."""
    assert row.words is not None
    assert row.spans is not None
    positions: Ids = np.flatnonzero(row.words >= 0)
    for word in np.split(positions, np.flatnonzero(np.diff(row.words[positions])) + 1):
        if len(word):
            yield int(word[0]), int(row.spans[word[0], 0]), int(row.spans[word[-1], 1])


def _tags(manifest: Manifest, row: TokenizedRow, label: Label) -> Ids:
    tags = np.full(len(row), IGNORED, dtype=np.int64)
    begun: set[Span] = set()
    for token, start, _ in _words(row):
        span = next((span for span in spans_of(label) if span.start <= start < span.end), None)
        if span is None:
            tags[token] = OUTSIDE
        else:
            tags[token] = 1 + 2 * manifest.labels.index(span.label) + (span in begun)
            begun.add(span)
    return tags


def _entities(row: TokenizedRow, scores: Floats) -> Iterator[_Entity]:
    """Words that go on from the word before, and are of its label, are one entity with it."""
    words = list(_words(row))
    tags = [int(scores[token].argmax()) for token, _, _ in words]
    first = 0
    while first < len(words):
        if tags[first] == OUTSIDE:
            first += 1
            continue
        label, last = (tags[first] - 1) // 2, first
        while last + 1 < len(words) and tags[last + 1] == 2 + 2 * label:
            last += 1
        sure = [float(scores[token].max()) for token, _, _ in words[first : last + 1]]
        yield _Entity(words[first][1], words[last][2], label, sum(sure) / len(sure))
        first = last + 1
