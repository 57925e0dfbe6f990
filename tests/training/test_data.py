"""Data files: what is well formed is read, and what is wrong is named with its file and line."""

import codecs
import csv
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.adapters.manifest import KindName
from service.errors import BadData
from service.tasks import Span
from service.tasks.base import spans_of
from service.training.columns import LABEL_COLUMNS, PAIR_COLUMNS, TEXT_COLUMNS, Columns
from service.training.data import Example, read_examples
from service.training.labels import infer_kind
from tests.training.toys import TOYS, write_csv, write_jsonl

EXAMPLES = [Example('He said "no", twice', None, "a"), Example("Süß, 東京 🙂", None, "b")]


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


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_csv_may_be_separated_as_spreadsheets_of_other_countries_do(tmp_path: Path, separator: str) -> None:
    lines = [["Text", "Label"], ["one, two", "a"], [f'"three{separator} four"', "b"]]
    path = _file(tmp_path, "data.csv", "\n".join(separator.join(line) for line in lines))
    assert read_examples(path) == [Example("one, two", None, "a"), Example(f"three{separator} four", None, "b")]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_what_spreadsheets_call_unicode_is_read(tmp_path: Path, encoding: str, end: str) -> None:
    path = _file(tmp_path, "data.csv", end.join(["\ufefftext\tlabel", "Süß, 東京 🙂\tb", ""]), encoding)
    assert read_examples(path) == [EXAMPLES[1]]


def test_the_case_of_a_suffix_does_not_matter(tmp_path: Path) -> None:
    assert read_examples(_file(tmp_path, "DATA.CSV", "text,label\nx,y\n")) == [Example("x", None, "y")]


def test_empty_lines_of_a_table_are_no_rows(tmp_path: Path) -> None:
    path = _file(tmp_path, "data.csv", "\ntext,label\n\nx,y\n\n")
    assert read_examples(path) == [Example("x", None, "y")]


def test_what_a_spreadsheet_leaves_below_and_beside_its_table_is_not_read(tmp_path: Path) -> None:
    path = _file(tmp_path, "data.csv", ";;;\n;text;label;\n1;x;y;\n;;;\n; ;;\n")
    assert read_examples(path) == [Example("x", None, "y")]


def test_a_name_in_quotes_may_hold_another_separator(tmp_path: Path) -> None:
    path = _file(tmp_path, "data.csv", '"text, as sent";label\nx;y\n')
    assert read_examples(path, Columns(text="text, as sent")) == [Example("x", None, "y")]


def test_numbers_in_jsonl_are_labels_too(tmp_path: Path) -> None:
    path = _file(tmp_path, "data.jsonl", '{"text": "x", "score": 2.5}\n{"text": "y", "score": 3}\n')
    assert [example.label for example in read_examples(path)] == ["2.5", "3"]


@pytest.mark.parametrize("text", TEXT_COLUMNS)
@pytest.mark.parametrize("label", LABEL_COLUMNS)
def test_the_usual_column_names_are_guessed(tmp_path: Path, text: str, label: str) -> None:
    path = _file(tmp_path, "data.csv", f"id,{label},{text}\n1,yes,words\n")
    assert read_examples(path) == [Example("words", None, ("yes",) if label == "labels" else "yes")]


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ("Text,LABEL", "classification"),
        (" TEXT , Category ", "classification"),
        ("Tokens,Tags", "tagging"),
        ("Text,Labels", "multilabel"),
    ],
)
def test_names_are_guessed_whatever_their_case(tmp_path: Path, names: str, kind: KindName) -> None:
    path = _file(tmp_path, "data.csv", f"{names}\ncat,B-x\n")
    assert read_examples(path) == read_examples(path, kind=kind)
    assert infer_kind(read_examples(path), path) == kind


def test_of_two_names_the_one_that_is_as_usual_is_taken(tmp_path: Path) -> None:
    path = _file(tmp_path, "data.csv", "Text,text,Label,label\n1,2,3,4\n")
    assert read_examples(path) == [Example("2", None, "4")]


def test_examples_know_their_lines(tmp_path: Path) -> None:
    table = _file(tmp_path, "data.csv", 'text,label\n"one\n\ntwo",a\n\nthree,b\n')
    lines = _file(tmp_path, "data.jsonl", '\n{"text": "x", "label": "a"}\n\n{"text": "y", "label": "b"}')
    words = _file(tmp_path, "data.conll", "\na O\n\n\nb O\nc O\n")
    assert [[one.line for one in read_examples(path)] for path in (table, lines, words)] == [[2, 6], [2, 4], [2, 5]]
    assert Example("x", None, "a") == Example("x", None, "a", line=3)
    assert repr(Example("x", None, "a")) == repr(Example("x", None, "a", line=3))  # checkpoints know data by it


@pytest.mark.parametrize("pair", PAIR_COLUMNS)
def test_a_pair_column_makes_pairs(tmp_path: Path, pair: str) -> None:
    path = _file(tmp_path, "data.csv", f"text,{pair},label\none,two,yes\n")
    assert read_examples(path) == [Example("one", "two", "yes")]


def test_a_pair_column_that_nobody_filled_is_none(tmp_path: Path) -> None:
    table = _file(tmp_path, "data.csv", "text,text_pair,label\none,,yes\ntwo, ,no\n")
    rows = ['{"text": "one", "label": "yes", "text_pair": null}', '{"text": "two", "label": "no", "text_pair": ""}']
    lines = _file(tmp_path, "data.jsonl", "\n".join(rows))
    for path in (table, lines):
        assert read_examples(path) == [Example("one", None, "yes"), Example("two", None, "no")]
        with pytest.raises(BadData, match=r"^.*:\d: column text_pair is "):
            read_examples(path, Columns(pair="text_pair"))


def test_a_pair_column_can_be_switched_off(tmp_path: Path) -> None:
    path = _file(tmp_path, "data.csv", "text,text_b,label\none,two,yes\n")
    assert read_examples(path, Columns(pair="")) == [Example("one", None, "yes")]


def test_a_column_that_the_first_row_lacks_is_seen(tmp_path: Path) -> None:
    rows = ['{"text": "one", "label": "a"}', '{"text": "two", "label": "b", "text_pair": "three"}']
    path = _file(tmp_path, "data.jsonl", "\n".join(rows))
    with pytest.raises(BadData, match=f"^{path}:1: column text_pair is missing"):
        read_examples(path)
    path = _file(tmp_path, "data.jsonl", "\n".join(reversed(rows)))
    with pytest.raises(BadData, match=f"^{path}:2: column text_pair is missing"):
        read_examples(path)


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
        ("data.csv", 'text,label\n"a\nb\nc",\n', ":2: column label is empty"),
        ("data.csv", 'text,label\na,b\n"c\nd\ne"\n', ":3: expected 2 columns, found 1"),
        ("data.csv", "text,text_pair,label\na,b,c\na,,c\n", ":3: column text_pair is empty"),
        ("data.csv", "text,label\n", ": no rows"),
        ("data.csv", "", ": no rows"),
        ("data.csv", "text,mood\na,b\n", ": which column holds the label.*found text, mood"),
        ("data.csv", "phrase,label\na,b\n", ": which column holds the text.*found phrase, label"),
        ("data.tsv", "text\tlabel\na\tb\tc\n", ":2: expected 2 columns"),
        ("data.jsonl", '{"text": "a", "label": "b"}\n{"text": \n', ":2: not JSON"),
        ("data.jsonl", '\n[1, 2]\n{"text": "a"}', ":2: not a JSON object"),
        ("data.jsonl", '{"text": "a", "label": "b"}\n{"text": "c"}\n', ":2: column label is missing"),
        ("data.jsonl", '{"text": "c"}\n{"text": "a", "label": "b"}\n', ":1: column label is missing"),
        ("data.jsonl", '{"text": "a", "label": {"text": ["b"]}}\n', ":1: column label: .* no label; .*--kind answer"),
        ("data.jsonl", '{"text": null, "label": "b"}\n', ":1: column text is missing"),
        ("data.jsonl", '{"text": ["a"], "label": "b"}\n', ":1: column text is missing or neither text nor number"),
        ("data.jsonl", "[" * 100_000 + "\n", ":1: not JSON"),
        ("data.jsonl", '{"text": "half \\ud83d", "label": "b"}\n', ":1: column text holds a lone surrogate"),
        ("data.jsonl", '{"text": "a", "label": "\\ud83d"}\n', ":1: column label holds a lone surrogate"),
        ("data.jsonl", '{"text": "a", "label": [{"b": 1}]}\n', ":1: column label: {'b': 1} is no label"),
        ("data.csv", "text,label,text\na,b,c\n", ":1: two columns have one name: text, label, text"),
        ("data.tsv", "label\tlabel\na\tb\n", ":1: two columns have one name: label, label"),
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


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_a_file_in_another_encoding_is_refused_with_the_line(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(mark + "text,label\nx,a\nSüß,a\n".encode("latin-1"))
    with pytest.raises(BadData, match=f"^{path}:3: not UTF-8; save it as UTF-8"):
        read_examples(path)
    path.write_bytes("\ufefftext,label\nx,a\n".encode("utf-16-le") + b"\n")
    with pytest.raises(BadData, match=f"^{path}:3: not UTF-16; save it as UTF-8"):
        read_examples(path)


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)).filter(lambda row: all(map(str.strip, row)))))
def test_any_text_survives_jsonl(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    rows.append(("last", "label"))
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    path = _file(tmp_path_factory.getbasetemp(), "any.jsonl", "\n".join(lines))
    assert read_examples(path) == [Example(text.strip(), None, label.strip()) for text, label in rows]


# Each kind of task in every format that can hold it: the file, and what it says.

RED_CAT = Example("a red cat", None, (Span(2, 5, "colour"), Span(6, 9, "animal")))
BOTH, NONE = Example("cat rain", None, ("pets", "weather")), Example("film", None, ())
PARIS = Example("Where is it?", "It is in Paris, or Parish.", (Span(9, 14, "Paris"),))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("cells.csv", "text,labels\ncat rain,pets| weather|pets\nfilm,\n", [BOTH, NONE]),
        ("cells.tsv", "text\tlabels\ncat rain\tpets|weather\nfilm\t | \n", [BOTH, NONE]),
        (
            "lists.jsonl",
            '{"text": "cat rain", "label": ["pets", "weather", "pets"]}\n{"text": "film", "label": []}\n',
            [BOTH, NONE],
        ),
        ("numbers.jsonl", '{"text": "x", "labels": [1, 2.5]}\n', [Example("x", None, ("1", "2.5"))]),
    ],
)
def test_several_labels_are_read_from_cells_and_lists(
    tmp_path: Path, name: str, text: str, expected: list[Example]
) -> None:
    path = _file(tmp_path, name, text)
    assert read_examples(path) == read_examples(path, kind="multilabel") == expected
    assert infer_kind(expected, path) == "multilabel"


def test_a_bar_in_a_cell_separates_labels_only_where_there_are_several(tmp_path: Path) -> None:
    path = _file(tmp_path, "data.csv", "text,label\ncat rain,pets|weather\n")
    assert read_examples(path)[0].label == "pets|weather"
    assert read_examples(path, kind="multilabel")[0].label == ("pets", "weather")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("words.conll", "-DOCSTART- -X- O O\n\na DT O\nred JJ B-colour\ncat NN B-animal\n\n"),
        ("words.bio", "\n\na\tO\nred\tI-colour\ncat\tI-animal"),
        ("words.jsonl", '{"tokens": ["a", "red ", "cat"], "ner_tags": ["O", "B-colour", "B-animal"]}'),
        ("words.tsv", "words\ttags\na red cat\tO B-colour I-animal\n"),
        (
            "spans.jsonl",
            '{"text": "a red cat", "entities": [{"start": 6, "end": 9, "label": "animal"}, '
            '{"start": 2, "end": 5, "label": "colour", "id": 7}]}',
        ),
        (
            "space.jsonl",
            '{"sentence": " \\t a red cat  ", "spans": [{"start": 5, "end": 8, "label": "colour"}, '
            '{"start": 9, "end": 12, "label": "animal"}]}',
        ),
    ],
)
def test_entities_are_read_from_tags_and_from_spans(tmp_path: Path, name: str, text: str) -> None:
    path = _file(tmp_path, name, text)
    assert read_examples(path) == read_examples(path, kind="tagging") == [RED_CAT]
    assert infer_kind([RED_CAT], path) == "tagging"


def test_comments_before_a_sentence_are_no_words(tmp_path: Path) -> None:
    lines = ["# a comment", "# text = the cat O", "#id=5", "#", "the\tO", "#\tB-x", "", "# sent_id = O", "# O", "cat O"]
    examples = read_examples(_file(tmp_path, "data.conll", "\n".join(lines)))
    assert [example.text for example in examples] == ["the #", "# cat"]
    assert [example.line for example in examples] == [5, 9]


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_a_list_of_labels_is_not_one(tmp_path: Path, kind: KindName) -> None:
    path = _file(tmp_path, "data.jsonl", '{"text": "a", "label": "1"}\n{"text": "b", "label": []}\n')
    with pytest.raises(BadData, match=rf"^{path}:2: column label: \[\] is a list, where one label is due"):
        read_examples(path, kind=kind)


def test_entities_are_read_from_a_column_that_is_named(tmp_path: Path) -> None:
    spans = '[{"start": 2, "end": 5, "label": "colour"}, {"start": 6, "end": 9, "label": "animal"}]'
    rows = [f'{{"body": "a red cat", "marks": {spans}}}', '{"body": "a red cat", "marks": "O B-colour B-animal"}']
    path = _file(tmp_path, "data.jsonl", "\n".join(rows))
    assert read_examples(path, Columns("body", None, "marks"), "tagging") == [RED_CAT, RED_CAT]


def test_tags_that_go_on_are_one_entity_and_a_new_b_begins_another(tmp_path: Path) -> None:
    lines = ["one B-x", "two I-x", "three B-x", "red I-y", "blue O", "the I-y"]
    [example] = read_examples(_file(tmp_path, "data.conll", "\n".join(lines)))
    assert [(example.text[start:end], label) for start, end, label in spans_of(example.label)] == [
        ("one two", "x"),
        ("three", "x"),
        ("red", "y"),
        ("the", "y"),
    ]


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["Paris"], "answer_start": [9]},
        {"text": ["Paris"], "answer_start": []},
        {"text": "Paris", "answer_start": 9},
        [{"text": "Paris", "answer_start": 9}],
        [{"text": "Paris", "start": 9}],
        [{"text": "Paris"}],
        ["Paris"],
        "Paris",
    ],
)
def test_an_answer_is_read_in_every_form(tmp_path: Path, answers: Any) -> None:
    row = {"question": PARIS.text, "context": PARIS.text_pair, "answers": answers}
    path = _file(tmp_path, "data.jsonl", json.dumps(row))
    assert read_examples(path) == read_examples(path, kind="answer") == [PARIS]
    assert infer_kind([PARIS], path) == "answer"


@pytest.mark.parametrize("answers", [{"text": [], "answer_start": []}, [], "", None])
def test_no_answer_is_read_in_every_form(tmp_path: Path, answers: Any) -> None:
    rows = [{"question": PARIS.text, "context": PARIS.text_pair, "answers": found} for found in (answers, "Paris")]
    path = _file(tmp_path, "data.jsonl", "\n".join(map(json.dumps, rows)))
    examples = read_examples(path)
    assert examples == [Example(PARIS.text, PARIS.text_pair, ()), PARIS]
    assert infer_kind(examples, path) == "answer"


def test_answers_are_read_from_a_table_and_from_named_columns(tmp_path: Path) -> None:
    table = _file(tmp_path, "data.csv", f'question,context,answer\n{PARIS.text},"{PARIS.text_pair}",Paris\n')
    named = _file(tmp_path, "named.csv", f'ask,passage,reply\n{PARIS.text},"{PARIS.text_pair}",Paris\n')
    assert read_examples(table) == [PARIS]
    assert read_examples(named, Columns("ask", "passage", "reply"), "answer") == [PARIS]


def test_questions_on_passages_may_be_classified_too(tmp_path: Path) -> None:
    path = _file(tmp_path, "data.csv", "question,context,label\nWhere?,In Paris.,answered\n")
    assert read_examples(path, Columns(pair="context")) == [Example("Where?", "In Paris.", "answered")]


def test_squads_nesting_is_read(tmp_path: Path) -> None:
    question = {"question": PARIS.text, "answers": [{"text": "Paris", "answer_start": 9}], "id": "1"}
    never = {"question": "When?", "is_impossible": True, "answers": [], "plausible_answers": [{"text": "it"}]}
    paragraph = {"context": PARIS.text_pair, "qas": [question, never]}
    expected = [PARIS, Example("When?", PARIS.text_pair, ())]
    for number, whole in enumerate(({"data": [{"title": "x", "paragraphs": [paragraph]}]}, [paragraph])):
        path = _file(tmp_path, f"{number}.json", json.dumps(whole))
        assert read_examples(path) == expected


def _spans(*spans: dict[str, Any]) -> str:
    return json.dumps({"text": "a red cat", "entities": list(spans)})


def _asked(answers: Any, **columns: Any) -> str:
    return json.dumps({"question": "Where?", "context": "In Paris.", "answers": answers} | columns)


@pytest.mark.parametrize(
    ("name", "text", "cause"),
    [
        ("data.conll", "red B-colour\ncat\n", ":2: a word without a tag"),
        ("data.conll", "a O\n\nthe O\ncat B\n", ":4: tag 'B' is neither O nor B-"),
        ("data.conll", "a O\n\nthe O\ncat S-animal\n", ":4: tag 'S-animal' is neither"),
        ("data.conll", "\n\n", ": no rows"),
        ("data.jsonl", '{"tokens": ["a", "cat"], "tags": ["O"]}', ":1: 2 words, but 1 tags"),
        ("data.jsonl", '{"tokens": ["a", 5], "tags": ["O", "O"]}', ":1: column tokens is not a list of words"),
        ("data.jsonl", '{"tokens": ["a", " "], "tags": ["O", "O"]}', ":1: column tokens is not a list of words"),
        ("data.jsonl", '{"tokens": ["a"], "tags": [0]}', ":1: column tags holds numbers; write tags by their names"),
        ("data.jsonl", '{"tokens": ["a"], "tags": [null]}', ":1: column tags is not a list of words"),
        ("data.jsonl", '{"text": "a", "entities": 5}', ":1: column entities is neither a list of {start"),
        ("data.jsonl", '{"text": "a"}\n', ": which column holds the label"),
        (
            "data.jsonl",
            "\n" + _spans({"start": 2, "end": 6, "label": "x"}, {"start": 5, "end": 9, "label": "y"}),
            ":2: column entities: x at 2 and y at 5 overlap",
        ),
        ("data.jsonl", _spans({"start": 6, "end": 10, "label": "x"}), ":1: .*outside its text of 9 characters"),
        ("data.jsonl", _spans({"start": -1, "end": 1, "label": "x"}), ":1: .*outside its text"),
        ("data.jsonl", _spans({"start": 2, "end": 2, "label": "x"}), ":1: .*outside its text"),
        ("data.jsonl", _spans({"start": 2, "label": "x"}), ":1: .* is not {start, end, label}"),
        ("data.jsonl", _spans({"start": 2, "end": 5, "label": " "}), ":1: .*empty label"),
        ("data.jsonl", _asked("Rome"), ":1: answer 'Rome' does not stand in its context"),
        ("data.jsonl", _asked([{"text": "Paris", "answer_start": 4}]), ":1: answer 'Paris' does not stand at 4"),
        ("data.jsonl", _asked([{"text": "Pari", "answer_start": -6}]), ":1: answer 'Pari' does not stand at -6"),
        ("data.jsonl", _asked([{"answer_start": 3}]), ":1: answer .* has no text"),
        ("data.jsonl", _asked({"text": ["In", "Paris"], "answer_start": [0]}), ":1: column answers: 2 texts, but"),
        ("data.jsonl", _asked(42), ":1: column answers: 42 is no answer"),
        ("data.jsonl", _asked("In", context=" "), ":1: column context is missing or empty"),
        ("data.jsonl", _asked("In", context=None), ":1: column context is missing or empty"),
        ("data.jsonl", _asked("In", question=""), ":1: column question is empty"),
        ("data.json", "{", ": not JSON"),
        ("data.json", "[" * 100_000, ": not JSON"),
        ("data.json", "5", ": not in SQuAD's form"),
        ("data.json", '[{"text": "a", "label": "b"}]', ': not in SQuAD\'s form, which is {"data".*into a .jsonl'),
        ("data.jsonl", '{"tokens": ["a"], "tags": ["O"]}\n{"tokens": ["b"]}', ":2: column tags is missing"),
        ("data.jsonl", _asked("In") + '\n{"question": "x", "context": "y"}', ":2: column answers is missing"),
        ("data.json", '{"data": [{"paragraphs": [{"context": "x"}]}]}', ": not in SQuAD's form"),
        (
            "data.json",
            '[{"context": "x", "qas": [{"question": "y", "answers": ["z"]}]}]',
            ": question 1: answer 'z' does not",
        ),
    ],
    ids=lambda value: value[:40],
)
def test_what_is_wrong_with_marks_and_answers_is_named_too(tmp_path: Path, name: str, text: str, cause: str) -> None:
    path = _file(tmp_path, name, text)
    with pytest.raises(BadData, match=f"^{path}{cause}"):
        read_examples(path)


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("tagging", "which column holds the label"),
        ("answer", "which column holds the pair.* --pair"),
    ],
)
def test_a_file_without_the_columns_of_its_kind_is_refused(tmp_path: Path, kind: KindName, cause: str) -> None:
    path = _file(tmp_path, "data.csv", "text,mood\na,b\n")
    with pytest.raises(BadData, match=f"^{path}: {cause}"):
        read_examples(path, kind=kind)


@pytest.mark.parametrize("kind", TOYS)
def test_every_kind_survives_a_file_and_is_known_again(tmp_path: Path, kind: KindName) -> None:
    examples = TOYS[kind](30, 1)
    if kind == "regression":
        examples = [Example(example.text, None, f"{example.label}.5") for example in examples]
    path = write_jsonl(tmp_path / "data.jsonl", kind, examples)
    read = read_examples(path)
    assert read == examples
    assert infer_kind(read, path) == kind


def test_pairs_survive_a_file(tmp_path: Path) -> None:
    examples = TOYS["classification"](6, 1)
    pairs = [Example(one.text, other.text, one.label) for one, other in pairwise(examples)]
    assert read_examples(write_csv(tmp_path / "data.csv", pairs)) == pairs
    assert read_examples(write_jsonl(tmp_path / "data.jsonl", "classification", pairs)) == pairs


WORD = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=5)


@given(st.lists(st.tuples(WORD, st.sampled_from(["O", "B-x", "I-x", "B-y", "I-y"])), min_size=1, max_size=8))
def test_tags_and_spans_say_the_same(tmp_path_factory: pytest.TempPathFactory, tagged: list[tuple[str, str]]) -> None:
    folder = tmp_path_factory.getbasetemp()
    lines = [f"{word} {tag}" for word, tag in tagged]
    [example] = read_examples(_file(folder, "any.bio", "\n".join(lines)))
    words, starts = [word for word, _ in tagged], [0]
    for word in words:
        starts.append(starts[-1] + len(word) + 1)
    assert example.text == " ".join(words)
    again = ["O"] * len(words)
    for start, end, label in spans_of(example.label):
        inside = [place for place in range(len(words)) if start <= starts[place] < end]
        again[inside[0] : inside[-1] + 1] = [f"B-{label}", *[f"I-{label}"] * (len(inside) - 1)]
    before = ["O", *(tag for _, tag in tagged)]
    assert again == [f"B{tag[1:]}" if tag[0] == "I" and last[1:] != tag[1:] else tag for last, tag in pairwise(before)]
    assert read_examples(write_jsonl(folder / "any-spans.jsonl", "tagging", [example])) == [example]


@given(st.text(min_size=1).filter(str.strip), st.text(), st.text())
def test_an_answer_is_found_where_it_stands(
    tmp_path_factory: pytest.TempPathFactory, answer: str, before: str, after: str
) -> None:
    context = before + answer + after
    rows = [
        {"question": "what", "context": context, "answers": [{"text": answer, "answer_start": len(before)}]},
        {"question": "what", "context": context, "answers": answer},
    ]
    path = _file(tmp_path_factory.getbasetemp(), "any-answers.jsonl", "\n".join(map(json.dumps, rows)))
    placed, found = read_examples(path)
    assert placed.label == (Span(len(before), len(before) + len(answer), answer),)
    [(start, end, text)] = spans_of(found.label)
    assert context[start:end] == text == answer


LABELS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="|"), min_size=1), max_size=4)


@given(LABELS)
def test_any_labels_survive_a_cell(tmp_path_factory: pytest.TempPathFactory, labels: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "any-labels.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text", "labels"], ["x", "|".join(labels)]])
    assert read_examples(path)[0].label == tuple(dict.fromkeys(label.strip() for label in labels if label.strip()))
