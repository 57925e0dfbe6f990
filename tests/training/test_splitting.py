"""Rows that are set aside are like those that stay, and none of them is a copy of one that stays."""

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.adapters.manifest import KindName
from service.tasks import Span
from service.training.data import Example, split
from service.training.labels import names_of
from service.training.splitting import set_aside
from tests.training.toys import TOYS

COUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=6)
SHARES, SEEDS = st.floats(0.05, 0.5), st.integers(0, 99)
NAMES = st.sampled_from("abcde")
ROWS: dict[KindName, st.SearchStrategy[Any]] = {
    "classification": NAMES,
    "multilabel": st.lists(NAMES, max_size=3, unique=True).map(tuple),
    "regression": st.integers(0, 5).map(str),
    "tagging": st.lists(NAMES, max_size=3).map(lambda names: tuple(Span(n, n + 1, one) for n, one in enumerate(names))),
    "answer": st.booleans().map(lambda answered: (Span(0, 1, "x"),) if answered else ()),
}


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[KindName, list[Example]]:
    """Rows of any kind, among them copies, and questions on few passages."""
    kind = draw(st.sampled_from(list(ROWS)))
    texts = draw(st.integers(1, 80))
    rows = draw(st.lists(st.tuples(st.integers(0, texts), ROWS[kind]), min_size=1, max_size=80))
    return kind, [_example(kind, place, *row) for place, row in enumerate(rows)]


def _example(kind: KindName, place: int, text: int, label: Any) -> Example:
    if kind == "answer":
        return Example(f"question {place}", f"passage {text}", label)
    return Example(f"text {text}", None, label)


def _key(kind: KindName, example: Example) -> Any:
    return example.text_pair if kind == "answer" else example.given


@given(data_sets(), SHARES, SEEDS)
def test_what_is_set_aside_is_lost_nowhere_and_doubled_nowhere(
    data: tuple[KindName, list[Example]], share: float, seed: int
) -> None:
    kind, examples = data
    numbered = [Example(one.text, one.text_pair, one.label, line) for line, one in enumerate(examples)]
    parts = set_aside(numbered, kind, share, seed)
    assert sorted(one.line for part in parts for one in part) == list(range(len(examples)))
    assert all([one.line for one in part] == sorted(one.line for one in part) for part in parts)


@given(data_sets(), SHARES, SEEDS)
def test_no_copy_and_no_passage_lies_on_both_sides(
    data: tuple[KindName, list[Example]], share: float, seed: int
) -> None:
    kind, examples = data
    stays, aside = set_aside(examples, kind, share, seed)
    assert {_key(kind, one) for one in stays}.isdisjoint(_key(kind, one) for one in aside)


@given(data_sets(), SHARES, SEEDS)
def test_every_label_that_is_set_aside_is_trained_on(
    data: tuple[KindName, list[Example]], share: float, seed: int
) -> None:
    kind, examples = data
    stays, aside = set_aside(examples, kind, share, seed)
    if kind == "answer":
        assert {bool(one.label) for one in aside} <= {bool(one.label) for one in stays}
    elif kind != "regression":
        assert _names(aside) <= _names(stays)
    assert stays


def _names(examples: Sequence[Example]) -> set[str]:
    return {name for one in examples for name in names_of(one.label)}


@given(data_sets(), SHARES, SEEDS)
def test_no_more_is_set_aside_than_the_share_but_one_group_where_that_is_too_small(
    data: tuple[KindName, list[Example]], share: float, seed: int
) -> None:
    kind, examples = data
    _, aside = set_aside(examples, kind, share, seed)
    groups = {_key(kind, one) for one in aside}
    assert len(aside) <= max(1, round(share * len(examples))) or len(groups) == 1


@given(COUNTS, SHARES, SEEDS)
def test_each_label_gives_its_share_and_makes_up_for_those_that_cannot_within_bounds(
    counts: list[int], share: float, seed: int
) -> None:
    examples = _examples(counts)
    _, aside = set_aside(examples, "classification", share, seed)
    found = Counter(one.label for one in aside)
    for label, count in enumerate(counts):
        assert found[str(label)] <= max(share * count + 1, 2 * share * count)
        if min(counts) >= 2 / share:
            assert abs(found[str(label)] - share * count) < 2
    if min(counts) >= 2 / share:
        assert abs(len(aside) - share * len(examples)) < 1


@pytest.mark.parametrize("labels", [3, 30])
@pytest.mark.parametrize("most", [1, 3])
def test_each_of_several_labels_gives_its_share_far_more_closely_than_by_chance(labels: int, most: int) -> None:
    missed = [0.0, 0.0]  # squares of rows, by stratification and by chance
    for seed in range(20):
        generator = random.Random(seed)
        examples = []
        for n in range(300):
            found = generator.choices(range(labels), [1 / (i + 1) for i in range(labels)], k=generator.randint(0, most))
            examples.append(Example(f"text {n}", None, tuple(dict.fromkeys(map(str, found)))))
        whole = Counter(name for one in examples for name in one.label)
        parts = set_aside(examples, "multilabel", 0.1, seed)[1], split(examples, 0.1, seed, stratify=False)[1]
        assert len(parts[0]) == len(parts[1]) == 30
        for which, aside in enumerate(parts):
            rows = Counter(name for one in aside for name in one.label)
            missed[which] += sum((rows[name] - 0.1 * count) ** 2 for name, count in whole.items())
    assert missed[0] < missed[1] / 2


def test_many_rare_labels_give_a_tenth_of_all_rows_and_not_half() -> None:
    examples = _examples([2] * 77)
    stays, aside = set_aside(examples, "classification", 0.1, seed=0)
    assert len(aside) == 15
    assert len({one.label for one in aside}) == 15
    assert len({one.label for one in stays}) == 77


@pytest.mark.parametrize("kind", TOYS)
@pytest.mark.parametrize("rows", [30, 100, 160])
def test_a_tenth_is_a_tenth_for_every_kind(kind: KindName, rows: int) -> None:
    stays, aside = set_aside(TOYS[kind](rows, 1), kind, 0.1, seed=0)
    assert (len(stays), len(aside)) == (rows - rows // 10, rows // 10)


def test_questions_without_an_answer_give_their_share_too() -> None:
    examples = [Example(f"q{n}", f"passage {n // 5}", (Span(0, 1, "x"),) if n % 5 else ()) for n in range(500)]
    _, aside = set_aside(examples, "answer", 0.1, seed=3)
    assert len(aside) == 50
    assert sum(not one.label for one in aside) == 10
    assert set(Counter(one.text_pair for one in aside).values()) == {5}


def test_one_text_that_fills_most_of_a_file_is_no_reason_to_take_much_of_another_label() -> None:
    examples = [*[Example("again", None, "a")] * 500, *(Example(f"text {n}", None, "b") for n in range(100))]
    _, aside = set_aside(examples, "classification", 0.1, seed=0)
    assert 10 <= len(aside) <= 20


def test_rows_that_cannot_be_spared_are_not_set_aside() -> None:
    assert set_aside(_examples([1, 1, 1]), "classification", 0.1, seed=0)[1] == []
    assert len(set_aside(_examples([1, 1, 2]), "classification", 0.1, seed=0)[1]) == 1


def test_what_is_set_aside_is_repeatable_and_its_seed_matters() -> None:
    examples = TOYS["tagging"](100, 1)
    assert set_aside(examples, "tagging", 0.1, 1) == set_aside(examples, "tagging", 0.1, 1)
    assert set_aside(examples, "tagging", 0.1, 1) != set_aside(examples, "tagging", 0.1, 2)


def test_what_is_set_aside_does_not_hang_on_the_run_of_the_program() -> None:
    """Python orders sets of texts in another way in each run."""
    code = (
        "from service.training.splitting import set_aside; from tests.training.toys import TOYS\n"
        "for kind in TOYS: print([one.text for one in set_aside(TOYS[kind](60, 1), kind, 0.1, 0)[1]])"
    )
    found = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        found.add(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout)
    assert len(found) == 1
    assert len(found.pop().splitlines()) == len(TOYS)


# The plain split, by which the experiment's data sets were made.


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
