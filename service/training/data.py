"""Labelled data: from a file's rows to inputs with their labels, whatever the labels are for."""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

from service.adapters.manifest import KindName
from service.errors import BadData
from service.tasks import Given, Label, Span
from service.training.formats import Row, read_rows

TEXT_COLUMNS = ("text", "sentence", "text_a", "sentence1", "sms", "question", "tokens", "words")
PAIR_COLUMNS = ("text_pair", "text_b", "sentence2")
LABEL_COLUMNS = ("label", "labels", "category", "intent", "class", "score", "target")
SPAN_COLUMNS = ("entities", "spans")
TAG_COLUMNS = ("tags", "ner_tags")
ANSWER_COLUMNS = ("answers", "answer")
LABEL_SEPARATOR = "|"  # between several labels in one cell of a table
FEW_VALUES = 20  # numbers with no more distinct values than this, all of them whole, are taken for classes


@dataclass(frozen=True, slots=True)
class Example:
    """One input with its label; for kind answer the question is the text, its passage the pair."""

    text: str
    text_pair: str | None
    label: Label

    @property
    def given(self) -> Given:
        return Given(self.text, self.text_pair)


@dataclass(frozen=True)
class Columns:
    """Which columns to read; what is None is guessed from the usual names."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None


def read_examples(path: Path, columns: Columns = Columns(), kind: KindName | None = None) -> list[Example]:
    """Reads a data file; a pair column makes it a set of pairs.

    Args:
        kind: what the labels are meant for, where it is known: one cell of a table can hold several labels only for
            multilabel.

    Raises:
        BadData: naming the file, and the line where it can.
    """
    rows = list(read_rows(path))
    if not rows:
        raise BadData(f"{path}: no rows")
    read = _reader(path, list(rows[0][1]), columns, kind)
    examples = []
    for line, row in rows:
        try:
            examples.append(read(row))
        except _Wrong as error:
            raise BadData(f"{path}:{line}: {error}") from error
    return examples


def infer_kind(examples: Sequence[Example]) -> KindName:
    """What a data set's labels are for: spans, answers, several labels, numbers, or one label out of a few."""
    labels = [example.label for example in examples]
    if all(isinstance(label, str) for label in labels):
        values = [_number(str(label)) for label in labels]
        if all(value is not None for value in values):
            distinct = set(values)
            if len(distinct) > FEW_VALUES or any(value != int(value) for value in distinct if value is not None):
                return "regression"
        return "classification"
    if any(isinstance(part, Span) for label in labels for part in label):
        return "tagging" if examples[0].text_pair is None else "answer"
    return "multilabel"


def split(examples: Sequence[Example], share: float, seed: int, stratify: bool) -> tuple[list[Example], list[Example]]:
    """Sets `share` of the examples aside, at random but repeatably.

    Where `stratify`, by label: each gives its share, and at least one example if it has two.

    Returns:
        (what stays, what was set aside), each in its first order.
    """
    groups: dict[Label, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        groups[example.label if stratify else ""].append(index)
    generator = random.Random(seed)
    aside: set[int] = set()
    for members in groups.values():
        aside.update(generator.sample(members, max(round(len(members) * share), min(1, len(members) - 1))))
    return (
        [example for index, example in enumerate(examples) if index not in aside],
        [example for index, example in enumerate(examples) if index in aside],
    )


class _Wrong(Exception):
    """What is wrong with one row; its file and line are added where they are known."""


# From a row's columns to an example


def _reader(path: Path, names: list[str], columns: Columns, kind: KindName | None) -> Callable[[Row], Example]:
    """How to read this file's rows, by the columns it has."""
    for given in (columns.text, columns.pair, columns.label):
        if given is not None and given not in names:
            raise BadData(f"{path}: no column {given}; found {', '.join(names)}")
    if kind == "answer" or (kind is None and _told_by(names, columns, ANSWER_COLUMNS, needs=("question", "context"))):
        question = columns.text or _column(path, names, ("question", "text"), "text")
        context = columns.pair or _column(path, names, ("context", "text_pair"), "pair")
        answers = columns.label or _column(path, names, ANSWER_COLUMNS, "label")
        return lambda row: _question(row, question, context, answers)
    text = columns.text or _column(path, names, TEXT_COLUMNS, "text")
    if kind == "tagging" or (kind is None and _told_by(names, columns, SPAN_COLUMNS + TAG_COLUMNS)):
        marked = columns.label or _column(path, names, SPAN_COLUMNS + TAG_COLUMNS + LABEL_COLUMNS, "label")
        return lambda row: _tagging(row, text, marked)
    pair = columns.pair or next((name for name in PAIR_COLUMNS if name in names), None)
    label = columns.label or _column(path, names, LABEL_COLUMNS, "label")
    several = kind == "multilabel" or (kind is None and label == "labels")
    return lambda row: Example(
        _cell(row, text), _cell(row, pair) if pair else None, _labels(row, label) if several else _label(row, label)
    )


def _told_by(names: list[str], columns: Columns, labels: Sequence[str], needs: Sequence[str] = ()) -> bool:
    """Whether a file's columns give its kind away: the label's name is one of `labels`, and what it needs is there."""
    found = [columns.label] if columns.label else names
    return any(name in labels for name in found) and all(name in names for name in needs)


def _column(path: Path, names: list[str], usual: Sequence[str], purpose: str) -> str:
    for name in usual:
        if name in names:
            return name
    raise BadData(f"{path}: which column holds the {purpose}? Name it with --{purpose}; found {', '.join(names)}")


def _cell(row: Row, column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str | int | float):
        raise _Wrong(f"column {column} is missing or neither text nor number")
    text = _sound(column, str(value)).strip()
    if not text:
        raise _Wrong(f"column {column} is empty")
    return text


def _sound(column: str, text: str) -> str:
    """JSON can spell half a character, which no tokenizer takes."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise _Wrong(f"column {column} holds a lone surrogate, which is no character")
    return text


def _label(row: Row, column: str) -> Label:
    return _labels(row, column) if isinstance(row.get(column), list) else _cell(row, column)


def _labels(row: Row, column: str) -> tuple[str, ...]:
    value = row.get(column)
    if value is None:
        raise _Wrong(f"column {column} is missing")
    parts = value if isinstance(value, list) else str(value).split(LABEL_SEPARATOR)
    for part in parts:
        if not isinstance(part, str | int | float):
            raise _Wrong(f"column {column}: {part!r} is no label")
    labels = [_sound(column, str(part)).strip() for part in parts]
    return tuple(dict.fromkeys(label for label in labels if label))


def _tagging(row: Row, text: str, column: str) -> Example:
    """A text with spans, or words with a tag for each."""
    found = row.get(column)
    tags = isinstance(found, str) or (isinstance(found, list) and found and isinstance(found[0], str))
    if tags or isinstance(row.get(text), list):
        return tagged(_words(row, text), _words(row, column))
    kept = _cell(row, text)
    raw = str(row[text])
    return Example(kept, None, _spans(found, column, kept, len(raw) - len(raw.lstrip())))


def _spans(found: Any, column: str, text: str, shift: int) -> tuple[Span, ...]:
    """Spans of a text that is kept without the `shift` characters of space before it."""
    if not isinstance(found, list):
        raise _Wrong(f"column {column} is neither a list of {{start, end, label}} nor one of tags")
    spans = []
    for entry in found:
        try:
            span = Span(int(entry["start"]) - shift, int(entry["end"]) - shift, _sound(column, str(entry["label"])))
        except (KeyError, TypeError, ValueError) as error:
            raise _Wrong(f"column {column}: {entry!r} is not {{start, end, label}}") from error
        if not span.label.strip():
            raise _Wrong(f"column {column}: {entry!r} has an empty label")
        if not 0 <= span.start < span.end <= len(text):
            raise _Wrong(f"column {column}: {entry!r} lies outside its text of {len(text)} characters")
        spans.append(span)
    spans.sort()
    for before, after in pairwise(spans):
        if after.start < before.end:
            places = f"{before.label} at {before.start} and {after.label} at {after.start}"
            raise _Wrong(f"column {column}: {places} overlap")
    return tuple(spans)


def _words(row: Row, column: str) -> list[str]:
    value = row.get(column)
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise _Wrong(f"column {column} is not a list of words")
    return [_sound(column, word.strip()) for word in words]


def tagged(words: Sequence[str], tags: Sequence[str]) -> Example:
    """Words with BIO tags, as one text with spans. An I- that continues nothing begins an entity, as a B- does."""
    if len(words) != len(tags):
        raise _Wrong(f"{len(words)} words, but {len(tags)} tags")
    spans: list[Span] = []
    position, going_on = 0, False
    for word, tag in zip(words, tags, strict=True):
        prefix, _, label = tag.partition("-")
        if tag != "O" and (prefix not in ("B", "I") or not label):
            raise _Wrong(f"tag {tag!r} is neither O nor B-… nor I-…")
        end = position + len(word)
        if tag == "O":
            going_on = False
        elif prefix == "I" and going_on and spans[-1].label == label:
            spans[-1] = Span(spans[-1].start, end, label)
        else:
            spans.append(Span(position, end, label))
            going_on = True
        position = end + 1
    return Example(" ".join(words), None, tuple(spans))


def _question(row: Row, question: str, context: str, answers: str) -> Example:
    passage = row.get(context)
    if not isinstance(passage, str) or not passage.strip():
        raise _Wrong(f"column {context} is missing or empty")
    return Example(_cell(row, question), _sound(context, passage), tuple(_answers(row.get(answers), answers, passage)))


def _answers(found: Any, column: str, context: str) -> Iterator[Span]:
    """Answers as SQuAD writes them, as a list of texts, or one text; a text without a place has its first one."""
    if isinstance(found, Mapping) and isinstance(found.get("text"), list):
        texts, starts = found["text"], found.get("answer_start") or [None] * len(found["text"])
        if not isinstance(starts, list) or len(starts) != len(texts):
            raise _Wrong(f"column {column}: {len(texts)} texts, but not as many starts")
        found = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if isinstance(found, str):
        found = [found] if found.strip() else []
    elif isinstance(found, Mapping):
        found = [found]
    if not isinstance(found, list | None):
        raise _Wrong(f"column {column}: {found!r} is no answer")
    for entry in found or []:
        text = entry if isinstance(entry, str) else entry.get("text") if isinstance(entry, Mapping) else None
        if not isinstance(text, str) or not text.strip():
            raise _Wrong(f"answer {entry!r} has no text")
        start = entry.get("answer_start", entry.get("start")) if isinstance(entry, Mapping) else None
        if start is None:
            start = _first_place(context, text)
        if not isinstance(start, int) or start < 0 or context[start : start + len(text)] != text:
            raise _Wrong(f"answer {text!r} does not stand at {start} of its context")
        yield Span(start, start + len(text), text)


def _first_place(context: str, text: str) -> int:
    """Where a text first stands as whole words, or else anywhere."""
    whole = re.search(rf"(?<!\w){re.escape(text)}(?!\w)", context)
    start = whole.start() if whole else context.find(text)
    if start < 0:
        raise _Wrong(f"answer {text!r} does not stand in its context")
    return start


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) else None
