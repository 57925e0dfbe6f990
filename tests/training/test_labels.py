"""What labels are for is seen from all of them; what is doubtful about them is said."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from service.adapters.manifest import KindName
from service.errors import BadData
from service.tasks import Span
from service.training.data import Example
from service.training.labels import FEW_VALUES, check_labels, doubts, infer_kind

FILE = Path("data.csv")
NUMBERS = [f"{number}.5" for number in range(49)]


def _rows(labels: Sequence[Any], pairs: Sequence[str] | None = None) -> list[Example]:
    """One text each, from line 2 on."""
    return [Example(f"text {n}", pairs[n] if pairs else None, label, line=n + 2) for n, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["good", "bad"], "classification"),
        (["1", "2", "3", "1.0"], "classification"),
        ([str(number) for number in range(FEW_VALUES)], "classification"),
        ([str(number) for number in range(FEW_VALUES + 1)], "regression"),
        (["1", "2.5"], "regression"),
        (["1.5", "many"], "classification"),
        (["1.5", "inf"], "classification"),
        (["one", ("one", "two")], "multilabel"),
    ],
)
def test_the_kind_is_seen_from_the_labels(labels: list[Any], kind: KindName) -> None:
    assert infer_kind(_rows(labels), FILE) == kind


@pytest.mark.parametrize(
    ("labels", "cause"),
    [
        (["n/a", *NUMBERS], ":2: 'n/a' is no number; 49 of 50 labels are"),
        ([*NUMBERS, "-", "-"], ":51: '-' is no number; 49 of 51 labels are"),
        ([*map(str, range(FEW_VALUES + 1)), "nan"], f":{FEW_VALUES + 3}: 'nan' is no number; 21 of 22 labels are"),
        ([(), ()], ": no row has a label.*--kind"),
        (["7", *(f"{n},5" for n in range(FEW_VALUES + 1))], ":3: '0,5' has a comma, .* 21 of 22 labels; .* --kind"),
    ],
)
def test_labels_that_tell_no_kind_are_refused_with_the_reason(labels: list[Any], cause: str) -> None:
    with pytest.raises(BadData, match=f"^{FILE}{cause}"):
        infer_kind(_rows(labels), FILE)


def test_a_few_numbers_among_names_and_a_few_names_among_classes_are_classes() -> None:
    assert infer_kind(_rows([*NUMBERS[:44], *["other"] * 5]), FILE) == "classification"
    assert infer_kind(_rows(["1", "2", "3"] * 20 + ["none"]), FILE) == "classification"


@pytest.mark.parametrize("several", [False, True])
def test_labels_that_are_words_of_the_second_texts_hint_at_answers(several: bool) -> None:
    places = ["Paris", "Rome", "Oslo", "Bonn"]
    passages = [f"It is in {place}." for place in places]
    labels = [(place,) for place in places] if several else places
    with pytest.raises(BadData, match=f"^{FILE}: .*name --kind answer"):
        infer_kind(_rows(labels, passages), FILE)
    assert infer_kind(_rows(["is", "in"] * 2, passages), FILE) == "classification"


def test_labels_that_are_all_different_are_taken_for_the_texts() -> None:
    labels = [f"a long text {n}" for n in range(FEW_VALUES + 1)]
    with pytest.raises(BadData, match=f"^{FILE}: each of the 21 rows has a label of its own.*swapped.*--text"):
        check_labels("classification", _rows(labels), FILE)
    check_labels("classification", _rows(labels[:-1]), FILE)
    check_labels("classification", _rows([*labels, labels[0]]), FILE)
    check_labels("regression", _rows(NUMBERS), FILE)


@pytest.mark.parametrize(
    ("kind", "rows", "said"),
    [
        (
            "classification",
            [("a", "x"), ("b", "y"), ("a", "x")],
            ["1 of 3 rows are copies of others; inputs with contradicting labels: 0$"],
        ),
        ("classification", [("a", "x"), ("a", "y"), ("a", "x"), ("b", "x")], ["2 of 4 rows are .*: 1$"]),
        ("multilabel", [("a", ("x", "y")), ("a", ("y", "x"))], ["1 of 2 rows are .*: 0$"]),
        ("classification", [("a", "x"), ("b", "y")], []),
        ("classification", [("a", "Pos"), ("b", "neg"), ("c", "pos")], ["only by case .*: Pos and pos$"]),
        ("tagging", [("a", (Span(0, 1, "LOC"),)), ("b", (Span(0, 1, "loc"),))], ["only by case .*: LOC and loc$"]),
        ("answer", [("a", (Span(0, 1, "It"),)), ("b", (Span(0, 1, "it"),))], []),
        ("classification", [("a", "x"), ("b", "x, y"), ("c", "z, v")], ["look like several: 'x, y'; .* by |$"]),
        ("multilabel", [("a", ("x",)), ("b", ("x;y",)), ("c", ("x/", "z"))], ["look like several: 'x/', 'x;y'; "]),
        ("tagging", [("a b", (Span(0, 2, "x"), Span(2, 3, "x")))], ["^1 of 2 entities .* as 'a ' in line 0; "]),
        ("tagging", [("an us", (Span(0, 1, "x"),)), ("an us", (Span(4, 5, "x"),))], ["copies", "^2 of 2 entities"]),
        ("tagging", [("an us.", (Span(0, 2, "x"), Span(3, 5, "x"))), ("我住柏林", (Span(2, 4, "x"),))], []),
    ],
)
def test_what_is_doubtful_is_said(kind: KindName, rows: list[tuple[str, Any]], said: list[str]) -> None:
    found = list(doubts(kind, [Example(text, None, label) for text, label in rows]))
    assert len(found) == len(said)
    for line, pattern in zip(found, said, strict=True):
        assert re.search(pattern, line)


def test_pairs_are_copies_only_as_a_whole() -> None:
    assert not list(doubts("classification", [Example("a", "b", "x"), Example("a", "c", "y")]))
