"""Which columns of a data file hold what: as they were named, or by the usual names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from service.adapters.manifest import KindName
from service.errors import BadData
from service.training.formats import Row

TEXT_COLUMNS = ("text", "sentence", "text_a", "sentence1", "sms", "question", "tokens", "words")
PAIR_COLUMNS = ("text_pair", "text_b", "sentence2")
LABEL_COLUMNS = ("label", "labels", "category", "intent", "class", "score", "target")
SPAN_COLUMNS = ("entities", "spans")
TAG_COLUMNS = ("tags", "ner_tags")
ANSWER_COLUMNS = ("answers", "answer")


@dataclass(frozen=True)
class Columns:
    """Which columns to read; what is None is guessed from the usual names, without their case."""

    text: str | None = None
    pair: str | None = None  # "": none, whatever the names are
    label: str | None = None


GUESSED = Columns()


class Layout(NamedTuple):
    """Where a file's rows hold what, and in which form the labels are."""

    form: Literal["label", "labels", "either", "entities", "answers"]
    text: str
    pair: str | None
    label: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that every row must have."""
        return tuple(name for name in (self.text, self.pair, self.label) if name is not None)


def find_layout(path: Path, rows: Sequence[Row], columns: Columns, kind: KindName | None) -> Layout:
    """The layout of a file by all of its rows: in JSON lines, the first need not have every column.

    Args:
        kind: what the labels are meant for, where it is known.

    Raises:
        BadData: a column that was named is not there, or one that was not cannot be guessed.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    for given in (columns.text, columns.pair or None, columns.label):
        if given is not None and given not in names:
            raise BadData(f"{path}: no column {given}; found {', '.join(names)}")
    if kind == "answer" or (kind is None and _told_by(names, columns, ANSWER_COLUMNS, needs=("question", "context"))):
        question = columns.text or _guess(path, names, ("question", "text"), "text")
        context = columns.pair or _guess(path, names, ("context", "text_pair"), "pair")
        return Layout("answers", question, context, columns.label or _guess(path, names, ANSWER_COLUMNS, "label"))
    text = columns.text or _guess(path, names, TEXT_COLUMNS, "text")
    if kind == "tagging" or (kind is None and _told_by(names, columns, SPAN_COLUMNS + TAG_COLUMNS)):
        marks = columns.label or _guess(path, names, SPAN_COLUMNS + TAG_COLUMNS + LABEL_COLUMNS, "label")
        return Layout("entities", text, None, marks)
    label = columns.label or _guess(path, names, LABEL_COLUMNS, "label")
    pair = _guessed_pair(names, rows) if columns.pair is None else columns.pair or None
    if kind == "multilabel" or (kind is None and label.casefold() == "labels"):
        return Layout("labels", text, pair, label)
    return Layout("either" if kind is None else "label", text, pair, label)


def _guess(path: Path, names: Sequence[str], usual: Sequence[str], purpose: str) -> str:
    found = _usual(names, usual)
    if found is None:
        known = ", ".join(names)
        raise BadData(f"{path}: which column holds the {purpose}? Name it with --{purpose}; found {known}")
    return found


def _usual(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """The first of the usual names that is there; in another case, where it is not there as it is."""
    plain = {_plain(name): name for name in reversed(names)}
    return next((name if name in names else plain[name] for name in usual if name in plain), None)


def _plain(name: str) -> str:
    return name.strip().casefold()


def _told_by(names: Sequence[str], columns: Columns, labels: Sequence[str], needs: Sequence[str] = ()) -> bool:
    """Whether a file's columns give its kind away: the label's name is one of `labels`, and what it needs is there."""
    found = {_plain(name) for name in ([columns.label] if columns.label else names)}
    return not found.isdisjoint(labels) and {_plain(name) for name in names}.issuperset(needs)


def _guessed_pair(names: Sequence[str], rows: Sequence[Row]) -> str | None:
    """A column that nobody filled is none."""
    pair = _usual(names, PAIR_COLUMNS)
    return pair if pair is not None and any(_filled(row.get(pair)) for row in rows) else None


def _filled(cell: Any) -> bool:
    return cell is not None and str(cell).strip() != ""
