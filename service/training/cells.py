"""What the cells of one row say: a text, labels, entities, answers.

Every function raises ValueError for what cannot be read; the file and the line are added where they are known.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from service.tasks import Label, Span
from service.training.formats import Row
from service.training.tags import join

LABEL_SEPARATOR = "|"  # between several labels in one cell of a table


def text_of(row: Row, column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str | int | float):
        raise ValueError(f"column {column} is missing or neither text nor number")
    text = _sound(column, str(value)).strip()
    if not text:
        raise ValueError(f"column {column} is empty")
    return text


def label_of(row: Row, column: str) -> str:
    value = row.get(column)
    if isinstance(value, list):
        raise ValueError(f"column {column}: {value!r} is a list, where one label is due")
    if isinstance(value, Mapping):
        raise ValueError(f"column {column}: {value!r} is no label; for answers in a passage name --kind answer")
    return text_of(row, column)


def labels_of(row: Row, column: str) -> tuple[str, ...]:
    """Several labels: a list, or a cell that separates them."""
    value = row.get(column)
    if value is None:
        raise ValueError(f"column {column} is missing")
    parts = value if isinstance(value, list) else str(value).split(LABEL_SEPARATOR)
    for part in parts:
        if not isinstance(part, str | int | float):
            raise ValueError(f"column {column}: {part!r} is no label")
    labels = [_sound(column, str(part)).strip() for part in parts]
    return tuple(dict.fromkeys(label for label in labels if label))


def either_of(row: Row, column: str) -> Label:
    """One label, or several where they are a list: while nobody knows what they are for."""
    return labels_of(row, column) if isinstance(row.get(column), list) else label_of(row, column)


def entities_of(row: Row, text: str, column: str) -> tuple[str, tuple[Span, ...]]:
    """A text with its entities; they are spans of it, or tags of its words."""
    found = row.get(column)
    tags = isinstance(found, str) or (isinstance(found, list) and found and isinstance(found[0], str))
    if tags or isinstance(row.get(text), list):
        return join(_words(row, text), _words(row, column))
    kept = text_of(row, text)
    raw = str(row[text])
    return kept, _spans(found, column, kept, len(raw) - len(raw.lstrip()))


def passage_of(row: Row, column: str) -> str:
    """As it is, space and all: answers count its characters."""
    passage = row.get(column)
    if not isinstance(passage, str) or not passage.strip():
        raise ValueError(f"column {column} is missing or empty")
    return _sound(column, passage)


def answers_of(row: Row, column: str, passage: str) -> tuple[Span, ...]:
    """Answers as SQuAD writes them, as a list of texts, or one text; a text without a place has its first one."""
    found = row.get(column)
    if isinstance(found, Mapping) and isinstance(found.get("text"), list):
        texts, starts = found["text"], found.get("answer_start") or [None] * len(found["text"])
        if not isinstance(starts, list) or len(starts) != len(texts):
            raise ValueError(f"column {column}: {len(texts)} texts, but not as many starts")
        found = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if isinstance(found, str):
        found = [found] if found.strip() else []
    elif isinstance(found, Mapping):
        found = [found]
    if not isinstance(found, list | None):
        raise ValueError(f"column {column}: {found!r} is no answer")
    return tuple(_placed(found or [], passage))


def _sound(column: str, text: str) -> str:
    """JSON can spell half a character, which no tokenizer takes."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"column {column} holds a lone surrogate, which is no character")
    return text


def _words(row: Row, column: str) -> list[str]:
    value = row.get(column)
    words = value.split() if isinstance(value, str) else value
    if isinstance(words, list) and words and all(isinstance(word, int) for word in words):
        raise ValueError(f"column {column} holds numbers; write tags by their names, O, B-… and I-…")
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise ValueError(f"column {column} is not a list of words")
    return [_sound(column, word.strip()) for word in words]


def _spans(found: Any, column: str, text: str, shift: int) -> tuple[Span, ...]:
    """Spans of a text that is kept without the `shift` characters of space before it."""
    if not isinstance(found, list):
        raise ValueError(f"column {column} is neither a list of {{start, end, label}} nor one of tags")
    spans = []
    for entry in found:
        try:
            span = Span(int(entry["start"]) - shift, int(entry["end"]) - shift, _sound(column, str(entry["label"])))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"column {column}: {entry!r} is not {{start, end, label}}") from error
        if not span.label.strip():
            raise ValueError(f"column {column}: {entry!r} has an empty label")
        if not 0 <= span.start < span.end <= len(text):
            raise ValueError(f"column {column}: {entry!r} lies outside its text of {len(text)} characters")
        spans.append(span)
    spans.sort()
    for before, after in pairwise(spans):
        if after.start < before.end:
            places = f"{before.label} at {before.start} and {after.label} at {after.start}"
            raise ValueError(f"column {column}: {places} overlap")
    return tuple(spans)


def _placed(answers: list[Any], passage: str) -> Iterator[Span]:
    for entry in answers:
        text = entry if isinstance(entry, str) else entry.get("text") if isinstance(entry, Mapping) else None
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"answer {entry!r} has no text")
        start = entry.get("answer_start", entry.get("start")) if isinstance(entry, Mapping) else None
        if start is None:
            start = _first_place(passage, text)
        if not isinstance(start, int) or start < 0 or passage[start : start + len(text)] != text:
            raise ValueError(f"answer {text!r} does not stand at {start} of its context")
        yield Span(start, start + len(text), text)


def _first_place(passage: str, text: str) -> int:
    """Where a text first stands as whole words, or else anywhere."""
    whole = re.search(rf"(?<!\w){re.escape(text)}(?!\w)", passage)
    start = whole.start() if whole else passage.find(text)
    if start < 0:
        raise ValueError(f"answer {text!r} does not stand in its context")
    return start
