"""File formats: tables with named columns, JSON lines, tagged words, SQuAD; each as numbered rows of named columns."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from service.errors import BadData

Row = Mapping[str, Any]
Line = tuple[int, Row]  # its number in the file, and its columns


def read_rows(path: Path) -> Iterator[Line]:
    """The rows of a data file, by its suffix.

    Raises:
        BadData: naming the file, and the line where it can.
    """
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
        names = reader.fieldnames or []
        if len(set(names)) != len(names):
            raise BadData(f"{path}:1: two columns have one name: {', '.join(names)}")
        for row in reader:
            if None in row or None in row.values():
                raise BadData(f"{path}:{reader.line_num}: expected {len(names)} columns")
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


def _conll_rows(path: Path, file: TextIO) -> Iterator[Line]:
    """A word and its tag a line, the word first and the tag last; an empty line ends a sentence."""
    words: list[str] = []
    tags: list[str] = []
    start = 1
    for number, line in enumerate(file, start=1):
        fields = line.split()
        if fields and not fields[0].startswith("-DOCSTART-"):
            if len(fields) < 2:
                raise BadData(f"{path}:{number}: a word without a tag")
            if not words:
                start = number
            words.append(fields[0])
            tags.append(fields[-1])
        elif words:
            yield start, {"tokens": words, "tags": tags}
            words, tags = [], []
    if words:
        yield start, {"tokens": words, "tags": tags}


def _squad_rows(path: Path, file: TextIO) -> Iterator[Line]:
    """SQuAD's nesting: data, paragraphs, questions. Rows are numbered as questions, for want of lines."""
    try:
        whole = json.load(file)
        articles = whole["data"] if isinstance(whole, dict) else whole
        number = 0
        for article in articles:
            for paragraph in article.get("paragraphs", [article]):
                for question in paragraph["qas"]:
                    number += 1
                    answers = [] if question.get("is_impossible") else question["answers"]
                    yield (
                        number,
                        {
                            "question": question["question"],
                            "context": paragraph["context"],
                            "answers": answers,
                        },
                    )
    except (ValueError, RecursionError) as error:
        raise BadData(f"{path}: not JSON: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise BadData(f"{path}: not in SQuAD's form: {error!r}") from error


FORMATS: dict[str, Callable[[Path, TextIO], Iterator[Line]]] = {
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".jsonl": _jsonl_rows,
    ".conll": _conll_rows,
    ".bio": _conll_rows,
    ".json": _squad_rows,
}
