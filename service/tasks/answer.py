"""Answer: the passage's own words that answer a question, or none where it holds none."""

import re
from collections import Counter
from collections.abc import Sequence
from string import punctuation

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from service.adapters.manifest import Calibration, Manifest
from service.tasks.base import Answer, Doubles, Floats, Kind, Label, Labelled, Prediction, spans_of
from service.tasks.calibration import fit_temperature
from service.tasks.reading import Reading, TokenizedRow

MAX_TOKENS = 40  # of an answer
NONE = 0  # the token that stands for "no answer here": the sequence's first
METRICS = ("f1", "exact_match")


class AnswerKind(Kind):
    """Start and end of the answer, scored for each token of overlapping windows over the passage.

    Devlin et al. 2019 (arXiv 1810.04805), sections 4.2 and 4.3; a window without the answer points to its first token.
    """

    name = "answer"
    metrics = METRICS
    per_token = True
    windowed = True
    max_length = 256  # few windows for a paragraph and its question

    def width(self, manifest: Manifest) -> int:
        return 2

    def decode(
        self, manifest: Manifest, reading: Reading, raw: Sequence[Floats], top_k: int | None = None
    ) -> Prediction:
        scores = _log_scores(manifest, reading, raw)
        best, start, end = _best_answer(reading, scores)
        none = min(float(part[NONE].sum()) for part in scores)
        margin = manifest.calibration.none_margin
        outputs = np.exp(np.concatenate([part.reshape(-1) for part in scores]))
        if best == -np.inf or (margin is not None and none - best > margin):
            return Prediction({"answer": None, "start": None, "end": None, "score": float(np.exp(none))}, outputs)
        text = (reading.given.text_pair or "")[start:end]
        return Prediction({"answer": text, "start": start, "end": end, "score": float(np.exp(best))}, outputs)

    def same(self, manifest: Manifest, answer: Answer, other: Answer) -> bool:
        return bool((answer["start"], answer["end"]) == (other["start"], other["end"]))

    def check_label(self, manifest: Manifest, label: Label) -> None:
        spans_of(label)

    def targets(self, manifest: Manifest, reading: Reading, label: Label) -> list[Tensor]:
        return [torch.tensor(_place(reading, row, label)) for row in reading.rows]

    def loss(self, outputs: Tensor, targets: Sequence[Tensor], lengths: Tensor) -> Tensor:
        rows = torch.split(outputs, lengths.tolist())
        padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=-torch.inf)
        wanted = torch.stack(list(targets))  # [rows, 2]
        return F.cross_entropy(padded.transpose(1, 2).reshape(-1, padded.shape[1]), wanted.reshape(-1))

    def calibrate(
        self, manifest: Manifest, raw: Sequence[Sequence[Floats]], labelled: Labelled, metric: str
    ) -> Calibration:
        """How sure answers are, and when to give none: the margin that serves the validation set best.

        Without a question in it that has no answer, none is ever given.
        """
        calibration = manifest.calibration.model_copy(
            update={"temperature": _temperature(raw, labelled), "none_margin": None}
        )
        if all(labelled.labels):
            return calibration
        margins, tallies = [], []
        answering = manifest.model_copy(update={"calibration": calibration})
        for reading, rows, label in zip(labelled.readings, raw, labelled.labels, strict=True):
            scores = _log_scores(answering, reading, rows)
            margins.append(min(float(part[NONE].sum()) for part in scores) - _best_answer(reading, scores)[0])
            answer = self.decode(answering, reading, rows).answer
            tallies.append(self.tally(manifest, answer, label)[METRICS.index(metric)] - (not label))
        # Answering gains tally − (1 if there is none); in the order of margins, the best place to stop is a sum's peak.
        order = np.argsort(margins)
        stop = int(np.concatenate([[0.0], np.cumsum(np.array(tallies)[order])]).argmax())
        ranked = np.clip(np.array(margins)[order], -1e6, 1e6)
        between = np.concatenate([[ranked[0] - 1], (ranked[:-1] + ranked[1:]) / 2, [ranked[-1] + 1]])
        margin = float(np.clip(between[stop], -1e6, 1e6))
        return calibration.model_copy(update={"none_margin": margin})

    def tally(self, manifest: Manifest, answer: Answer, label: Label) -> Sequence[float]:
        right = [span.label for span in spans_of(label)]
        if answer["answer"] is None or not right:
            same = float(answer["answer"] is None and not right)
            return same, same
        return (
            max(_overlap(answer["answer"], one) for one in right),
            float(any(_plain(answer["answer"]) == _plain(one) for one in right)),
        )

    def figure(self, manifest: Manifest, metric: str, tallies: Doubles) -> float:
        return float(tallies[:, METRICS.index(metric)].mean())


def _temperature(raw: Sequence[Sequence[Floats]], labelled: Labelled) -> float:
    """Start and end of every window are a choice among its tokens."""
    logits: list[Floats] = []
    right: list[int] = []
    for reading, rows, label in zip(labelled.readings, raw, labelled.labels, strict=True):
        for row, part in zip(reading.rows, rows, strict=True):
            logits += list(_possible(row, part).T)
            right += _place(reading, row, label)
    longest = max(map(len, logits))
    padded = np.stack([np.pad(one, (0, longest - len(one)), constant_values=-np.inf) for one in logits])
    return fit_temperature(padded, np.array(right))


def _possible(row: TokenizedRow, logits: Floats) -> Floats:
    """Logits [tokens, 2] with -inf where nothing can start or end: not the passage, and not the token for none."""
    assert row.words is not None
    allowed = row.words >= 0
    allowed[NONE] = True
    return np.where(allowed[:, None], logits, np.float32(-np.inf))


def _log_scores(manifest: Manifest, reading: Reading, raw: Sequence[Floats]) -> list[Floats]:
    """Log-probabilities [tokens, 2] of start and end, by window."""
    scores = []
    for row, logits in zip(reading.rows, raw, strict=True):
        kept = _possible(row, logits) / manifest.calibration.temperature
        top = kept.max(axis=0)
        scores.append(kept - top - np.log(np.exp(kept - top).sum(axis=0)))
    return scores


def _best_answer(reading: Reading, scores: Sequence[Floats]) -> tuple[float, int, int]:
    """The likeliest of all windows."""
    return max(_best_span(row, part) for row, part in zip(reading.rows, scores, strict=True))


def _best_span(row: TokenizedRow, scores: Floats) -> tuple[float, int, int]:
    """(log-probability, first character, character after the last) of the likeliest answer in a window."""
    assert row.words is not None
    assert row.spans is not None
    tokens = np.flatnonzero(row.words >= 0)
    if not len(tokens):
        return -np.inf, 0, 0
    both = scores[tokens, 0][:, None] + scores[tokens, 1][None, :]  # [first, last]
    length = np.arange(len(tokens))[None, :] - np.arange(len(tokens))[:, None]
    both = np.where((length >= 0) & (length < MAX_TOKENS), both, -np.inf)
    first, last = np.unravel_index(int(both.argmax()), both.shape)
    return float(both[first, last]), int(row.spans[tokens[first], 0]), int(row.spans[tokens[last], 1])


def _place(reading: Reading, row: TokenizedRow, label: Label) -> tuple[int, int]:
    """The first answer's first and last token in a window; (0, 0) where the window does not hold it whole."""
    assert row.words is not None
    assert row.spans is not None
    inside = row.words >= 0
    for span in spans_of(label)[:1]:
        text = (reading.given.text_pair or "")[span.start : span.end]
        start, end = span.end - len(text.lstrip()), span.start + len(text.rstrip())  # space is in no token
        firsts = np.flatnonzero(inside & (row.spans[:, 0] <= start) & (start < row.spans[:, 1]))
        lasts = np.flatnonzero(inside & (row.spans[:, 0] < end) & (end <= row.spans[:, 1]))
        if len(firsts) and len(lasts):
            return int(firsts[0]), int(lasts[-1])
    return NONE, NONE


def _plain(text: str) -> list[str]:
    """The words that count: no case, punctuation or articles (SQuAD's rule, Rajpurkar et al. 2016)."""
    bare = "".join(character for character in text.lower() if character not in punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def _overlap(found: str, right: str) -> float:
    """F1 of the words that two answers share."""
    ours, theirs = _plain(found), _plain(right)
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))
