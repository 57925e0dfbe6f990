"""Data files: what is well formed is read, and what is wrong is named with its file and line."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadData
from service.training.data import LABEL_COLUMNS, PAIR_COLUMNS, TEXT_COLUMNS, Columns, Example, read_examples, split

EXAMPLES = [Example('He said "no", twice', None, "a"), Example("Süß, 東京 🙂", None, "b")]
COUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def _file(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("data.csv", ["text,label", '"He said ""no"", twice",a', '"Süß, 東京 🙂",b']),
        ("data.tsv", ["label\ttext", 'a\tHe said "no", twice', "b\tSüß, 東京 🙂"]),
        (
            "data.jsonl",
            [
                '{"text": "He said \\"no\\", twice", "label": "a"}',
                "",
                '{"label": "b", "text": "S\\u00fc\\u00df, 東京 🙂", "more": []}',
            ],
        ),
    ],
)
def test_every_format_is_read(tmp_path: Path, name: str, lines: list[str], end: str, encoding: str) -> None:
    path = _file(tmp_path, name, end.join([*lines, ""]), encoding)
    assert read_examples(path) == EXAMPLES


def test_a_text_may_run_over_lines_in_csv(tmp_path: Path) -> None:
    path = _file(tmp_path, "data.csv", 'text,label\n"two\nlines",a\n')
    assert read_examples(path) == [Example("two\nlines", None, "a")]


def test_a_lone_quote_in_a_tsv_is_just_a_quote(tmp_path: Path) -> None:
    path = _file(tmp_path, "data.tsv", 'text\tlabel\n"Never\ta\n5" nails\tb\n')
    assert read_examples(path) == [Example('"Never', None, "a"), Example('5" nails', None, "b")]


def test_numbers_in_jsonl_are_labels_too(tmp_path: Path) -> None:
    path = _file(tmp_path, "data.jsonl", '{"text": "x", "score": 2.5}\n{"text": "y", "score": 3}\n')
    assert [example.label for example in read_examples(path)] == ["2.5", "3"]


@pytest.mark.parametrize("text", TEXT_COLUMNS)
@pytest.mark.parametrize("label", LABEL_COLUMNS)
def test_the_usual_column_names_are_guessed(tmp_path: Path, text: str, label: str) -> None:
    path = _file(tmp_path, "data.csv", f"id,{label},{text}\n1,yes,words\n")
    assert read_examples(path) == [Example("words", None, "yes")]


@pytest.mark.parametrize("pair", PAIR_COLUMNS)
def test_a_pair_column_makes_pairs(tmp_path: Path, pair: str) -> None:
    path = _file(tmp_path, "data.csv", f"text,{pair},label\none,two,yes\n")
    assert read_examples(path) == [Example("one", "two", "yes")]


def test_named_columns_are_preferred_to_guessed_ones(tmp_path: Path) -> None:
    path = _file(tmp_path, "data.csv", "text,label,body,topic,reply\nx,y,one,two,three\n")
    assert read_examples(path, Columns("body", "reply", "topic")) == [Example("one", "three", "two")]


@pytest.mark.parametrize(
    ("name", "text", "cause"),
    [
        ("data.csv", "text,label\na,b\nc\n", ":3: expected 2 columns"),
        ("data.csv", "text,label\na,b\nc,d,e\n", ":3: expected 2 columns"),
        ("data.csv", "text,label\na,b\n ,d\n", ":3: column text is empty"),
        ("data.csv", "text,label\na,\n", ":2: column label is empty"),
        ("data.csv", 'text,label\na,b\n"never closed,d\ne,f\n', ":3: unexpected end of data"),
        ("data.csv", 'text,label\n"closed" twice",b\n', ":2: ',' expected after"),
        ("data.csv", "text,label\n", ": no rows"),
        ("data.csv", "", ": no rows"),
        ("data.csv", "text,mood\na,b\n", ": which column holds the label.*found text, mood"),
        ("data.csv", "words,label\na,b\n", ": which column holds the text.*found words, label"),
        ("data.tsv", "text\tlabel\na\tb\tc\n", ":2: expected 2 columns"),
        ("data.jsonl", '{"text": "a", "label": "b"}\n{"text": \n', ":2: not JSON"),
        ("data.jsonl", '\n[1, 2]\n{"text": "a"}', ":2: not a JSON object"),
        ("data.jsonl", '{"text": "a", "label": "b"}\n{"text": "c"}\n', ":2: column label is missing"),
        ("data.jsonl", '{"text": null, "label": "b"}\n', ":1: column text is missing"),
        ("data.jsonl", '{"text": ["a"], "label": "b"}\n', ":1: column text is missing or neither text nor number"),
        ("data.jsonl", "[" * 100_000 + "\n", ":1: not JSON"),
        ("data.parquet", "PAR1", r": unknown format; use \.csv, \.tsv, \.jsonl"),
    ],
    ids=lambda value: value[:40],
)
def test_what_is_wrong_is_named_with_its_file_and_line(tmp_path: Path, name: str, text: str, cause: str) -> None:
    path = _file(tmp_path, name, text)
    with pytest.raises(BadData, match=f"^{path}{cause}"):
        read_examples(path)


@pytest.mark.parametrize("columns", [Columns(text="body"), Columns(label="body"), Columns(pair="body")])
def test_a_named_column_that_is_not_there_is_refused(tmp_path: Path, columns: Columns) -> None:
    path = _file(tmp_path, "data.csv", "text,label\na,b\n")
    with pytest.raises(BadData, match=f"^{path}: no column body; found text, label"):
        read_examples(path, columns)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=f"^{tmp_path}/none.csv: "):
        read_examples(tmp_path / "none.csv")


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, "data.csv", "text,label\nSüß,a\n", "latin-1")
    with pytest.raises(BadData, match=f"^{path}: .*utf-8"):
        read_examples(path)


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)).filter(lambda row: all(map(str.strip, row)))))
def test_any_text_survives_jsonl(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    rows.append(("last", "label"))
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    path = _file(tmp_path_factory.getbasetemp(), "any.jsonl", "\n".join(lines))
    assert read_examples(path) == [Example(text.strip(), None, label.strip()) for text, label in rows]


def _examples(counts: list[int]) -> list[Example]:
    return [Example(f"{label}/{n}", None, str(label)) for label, count in enumerate(counts) for n in range(count)]


def _share_is_kept(aside: int, count: int, share: float) -> bool:
    """To the nearest example, but never none of two."""
    return abs(aside - max(share * count, 1 if count > 1 else 0)) <= 0.5


@given(COUNTS, st.floats(0, 1), st.integers(0, 99), st.booleans())
def test_a_split_loses_and_doubles_nothing(counts: list[int], share: float, seed: int, stratify: bool) -> None:
    examples = _examples(counts)
    stays, aside = split(examples, share, seed, stratify)
    assert sorted([*stays, *aside], key=examples.index) == examples
    assert stays == [example for example in examples if example not in aside]
    assert aside == [example for example in examples if example in aside]
    if not stratify:
        assert _share_is_kept(len(aside), len(examples), share)


@given(COUNTS, st.floats(0, 1), st.integers(0, 99))
def test_a_stratified_split_keeps_each_labels_share(counts: list[int], share: float, seed: int) -> None:
    _, aside = split(_examples(counts), share, seed, stratify=True)
    found = Counter(example.label for example in aside)
    assert all(_share_is_kept(found[str(label)], count, share) for label, count in enumerate(counts))


def test_a_split_is_repeatable_and_its_seed_matters() -> None:
    examples = _examples([50, 50])
    assert split(examples, 0.2, seed=1, stratify=True) == split(examples, 0.2, seed=1, stratify=True)
    assert split(examples, 0.2, seed=1, stratify=True) != split(examples, 0.2, seed=2, stratify=True)
