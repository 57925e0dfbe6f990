"""File formats: tables with named columns, JSON lines, tagged words, SQuAD; each as numbered rows of named columns."""

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from service.errors import BadData
from service.training.tags import is_tag, parse_tag

Row = Mapping[str, Any]
Line = tuple[int, Row]  # its number in the file, and its columns

SQUAD = '{"data": [{"paragraphs": [{"context": …, "qas": [{"question": …, "answers": [{"text", "answer_start"}]}]}]}]}'


def read_rows(path: Path) -> Iterator[Line]:
    """The rows of a data file, by its suffix.

    Raises:
        BadData: naming the file, and the line where it can.
    """
    rows = FORMATS.get(path.suffix.lower())
    if rows is None:
        raise BadData(f"{path}: unknown format; use {', '.join(FORMATS)}")
    yield from rows(path, _text(path))


def place(path: Path, number: int) -> str:
    """Where a row of `read_rows` stands, as errors say it."""
    return f"{path}: question {number}" if FORMATS[path.suffix.lower()] is _squad_rows else f"{path}:{number}"


def _text(path: Path) -> str:
    """UTF-8; or UTF-16 with its mark at the start, which is what spreadsheets call Unicode."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadData(f"{path}: {error}") from error
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16") if wide else data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count("\n".encode("utf-16-le" if wide else "utf-8"), 0, error.start) + 1
        raise BadData(f"{path}:{line}: not {'UTF-16' if wide else 'UTF-8'}; save it as UTF-8") from error


def _lines(text: str) -> StringIO:
    """Lines with their ends as they are: \\n, \\r\\n or \\r, and none of Unicode's others."""
    return StringIO(text, newline="")


def _csv_rows(path: Path, text: str) -> Iterator[Line]:
    """Spreadsheets write the separator of their country: the header tells which, outside of quotes."""
    header = re.sub('"[^"]*"', "", next(iter(_lines(text)), ""))
    separator = next((one for one in ",;\t" if one in header), ",")
    return _table_rows(path, csv.reader(_lines(text), delimiter=separator, strict=True))


def _tsv_rows(path: Path, text: str) -> Iterator[Line]:
    # Without quoting: a lone quote in a text is just a quote.
    return _table_rows(path, csv.reader(_lines(text), delimiter="\t", quoting=csv.QUOTE_NONE, strict=True))


def _table_rows(path: Path, reader: Any) -> Iterator[Line]:
    names: list[str] = []
    line = 1  # the row's first: a quoted text may run over several
    try:
        for cells in reader:
            filled = any(cell.strip() for cell in cells)  # below its rows, a spreadsheet writes some of empty cells
            if filled and not names:
                names = _distinct(f"{path}:{line}", cells)
            elif filled and len(cells) != len(names):
                raise BadData(f"{path}:{line}: expected {len(names)} columns, found {len(cells)}")
            elif filled:
                yield line, {name: cell for name, cell in zip(names, cells, strict=True) if name.strip()}
            line = reader.line_num + 1
    except csv.Error as error:
        raise BadData(f"{path}:{line}: {error}") from error


def _distinct(place: str, names: list[str]) -> list[str]:
    """The header; columns without a name, such as a spreadsheet writes beside its table, are nobody's."""
    named = [name for name in names if name.strip()]
    if len(set(named)) != len(named):
        raise BadData(f"{place}: two columns have one name: {', '.join(names)}")
    return names


def _jsonl_rows(path: Path, text: str) -> Iterator[Line]:
    for number, line in enumerate(_lines(text), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadData(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise BadData(f"{path}:{number}: not a JSON object")
        yield number, row


def _conll_rows(path: Path, text: str) -> Iterator[Line]:
    """A word and its tag a line, the word first and the tag last; an empty line ends a sentence."""
    words: list[str] = []
    tags: list[str] = []
    start = 1
    for number, line in enumerate(_lines(text), start=1):
        fields = line.split()
        if fields and not fields[0].startswith("-DOCSTART-"):
            if not words and _is_comment(line):
                continue
            start = start if words else number
            words.append(fields[0])
            tags.append(_tag(f"{path}:{number}", fields))
        elif words:
            yield start, {"tokens": words, "tags": tags}
            words, tags = [], []
    if words:
        yield start, {"tokens": words, "tags": tags}


def _is_comment(line: str) -> bool:
    """`# …` and `#text = …`, which stand before a sentence; a `#` with its tag is a word."""
    if re.match(r"#\s*\w+\s*=", line):
        return True
    return line.strip() == "#" or (line.startswith("# ") and not is_tag(line.split()[-1]))


def _tag(place: str, fields: list[str]) -> str:
    if len(fields) < 2:
        raise BadData(f"{place}: a word without a tag")
    try:
        parse_tag(fields[-1])
    except ValueError as error:
        raise BadData(f"{place}: {error}") from error
    return fields[-1]


def _squad_rows(path: Path, text: str) -> Iterator[Line]:
    """SQuAD's nesting: data, paragraphs, questions. Rows are numbered as questions, for want of lines."""
    try:
        whole = json.loads(text)
        yield from enumerate(_questions(whole["data"] if isinstance(whole, dict) else whole), start=1)
    except (ValueError, RecursionError) as error:
        raise BadData(f"{path}: not JSON: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise BadData(
            f"{path}: not in SQuAD's form, which is {SQUAD}; other rows go into a .jsonl, one JSON object a line"
        ) from error


def _questions(articles: Iterable[Any]) -> Iterator[Row]:
    for article in articles:
        for paragraph in article.get("paragraphs", [article]):
            for question in paragraph["qas"]:
                yield {
                    "question": question["question"],
                    "context": paragraph["context"],
                    "answers": [] if question.get("is_impossible") else question["answers"],
                }


FORMATS: dict[str, Callable[[Path, str], Iterator[Line]]] = {
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".jsonl": _jsonl_rows,
    ".conll": _conll_rows,
    ".bio": _conll_rows,
    ".json": _squad_rows,
}
