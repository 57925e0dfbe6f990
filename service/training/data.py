"""Labelled data: CSV, TSV and JSONL files with named columns."""

import csv
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from service.errors import BadData

TEXT_COLUMNS = ("text", "sentence", "text_a", "sentence1", "sms", "question")
PAIR_COLUMNS = ("text_pair", "text_b", "sentence2")
LABEL_COLUMNS = ("label", "category", "intent", "class", "score", "target")


Line = tuple[int, dict[str, object]]  # its number in the file, and its columns


@dataclass(frozen=True, slots=True)
class Example:
    text: str
    text_pair: str | None
    label: str


@dataclass(frozen=True)
class Columns:
    """Which columns to read; what is None is guessed from the usual names."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None


def read_examples(path: Path, columns: Columns = Columns()) -> list[Example]:
    """Reads a data file; a pair column makes it a set of pairs.

    Raises:
        BadData: naming the file, and the line where it can.
    """
    rows = list(_rows(path))
    if not rows:
        raise BadData(f"{path}: no rows")
    names = list(rows[0][1])
    text = _column(path, names, columns.text, TEXT_COLUMNS, "text")
    label = _column(path, names, columns.label, LABEL_COLUMNS, "label")
    pair = columns.pair or next((name for name in PAIR_COLUMNS if name in names), None)
    if pair is not None and pair not in names:
        raise BadData(f"{path}: no column {pair}; found {', '.join(names)}")
    return [
        Example(
            _cell(path, line, row, text), _cell(path, line, row, pair) if pair else None, _cell(path, line, row, label)
        )
        for line, row in rows
    ]


def split(examples: Sequence[Example], share: float, seed: int, stratify: bool) -> tuple[list[Example], list[Example]]:
    """Sets `share` of the examples aside, at random but repeatably.

    Where `stratify`, by label: each gives its share, and at least one example if it has two.

    Returns:
        (what stays, what was set aside), each in its first order.
    """
    groups: dict[str, list[int]] = defaultdict(list)
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


def _rows(path: Path) -> Iterator[Line]:
    if path.suffix not in FORMATS:
        raise BadData(f"{path}: unknown format; use {', '.join(FORMATS)}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from FORMATS[path.suffix](path, file)
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(f"{path}: {error}") from error


def _csv_rows(path: Path, file: TextIO) -> Iterator[Line]:
    return _table_rows(path, csv.DictReader(file, strict=True))


def _tsv_rows(path: Path, file: TextIO) -> Iterator[Line]:
    # Without quoting: a lone quote in a text is just a quote.
    return _table_rows(path, csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True))


def _table_rows(path: Path, reader: "csv.DictReader[str]") -> Iterator[Line]:
    try:
        for row in reader:
            if None in row or None in row.values():
                raise BadData(f"{path}:{reader.line_num}: expected {len(reader.fieldnames or [])} columns")
            yield reader.line_num, dict(row)
    except csv.Error as error:
        raise BadData(f"{path}:{reader.line_num + 1}: {error}") from error  # where the broken row begins


def _jsonl_rows(path: Path, file: TextIO) -> Iterator[Line]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadData(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise BadData(f"{path}:{number}: not a JSON object")
        yield number, row


FORMATS = {".csv": _csv_rows, ".tsv": _tsv_rows, ".jsonl": _jsonl_rows}


def _column(path: Path, names: list[str], given: str | None, usual: Sequence[str], purpose: str) -> str:
    if given is not None:
        if given not in names:
            raise BadData(f"{path}: no column {given}; found {', '.join(names)}")
        return given
    for name in usual:
        if name in names:
            return name
    raise BadData(f"{path}: which column holds the {purpose}? Name it with --{purpose}; found {', '.join(names)}")


def _cell(path: Path, line: int, row: dict[str, object], column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str | int | float):
        raise BadData(f"{path}:{line}: column {column} is missing or neither text nor number")
    text = str(value).strip()
    if not text:
        raise BadData(f"{path}:{line}: column {column} is empty")
    return text
