"""Figures of merit equal those worked out by hand, and are 1 where everything is right."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.tasks.metrics import (
    PAIR_METRICS,
    TABLE_METRICS,
    Counts,
    accuracy,
    by_label,
    calibration_error,
    confusion,
    macro_f1,
    matthews,
    mean_f1,
    micro_f1,
    pearson,
    spearman,
)

PAIRS = st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=2, max_size=40)
ANSWERS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=40)  # 4: no label at all

# Right label by row, answered label by column; the last column is none of them.
CATS_AND_DOGS = np.array([[6.0, 2, 0], [1, 3, 0]])
THREE = np.array([[5.0, 1, 0, 0], [1, 3, 2, 0], [0, 0, 4, 0]])
STRAYS = np.array([[2.0, 0, 1], [0, 2, 1]])


def test_a_table_counts_answers_by_right_label() -> None:
    pairs = np.array([[0, 0], [0, 1], [1, 1], [1, 1], [0, 2]], float)
    assert confusion(pairs, 2).tolist() == [[1, 1, 1], [0, 2, 0]]


def test_labels_are_counted_one_by_one() -> None:
    assert by_label(STRAYS) == [Counts(2, 0, 1), Counts(2, 0, 1)]
    assert by_label(CATS_AND_DOGS) == [Counts(6, 1, 2), Counts(3, 2, 1)]


def test_precision_recall_and_f1_are_of_one_label() -> None:
    counts = Counts(hits=6, wrong=2, missed=4)
    assert (counts.precision, counts.recall, counts.f1) == pytest.approx((0.75, 0.6, 2 / 3))
    assert (Counts(0, 0, 0).precision, Counts(0, 0, 0).recall, Counts(0, 0, 0).f1) == (0, 0, 0)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (CATS_AND_DOGS, (6 * 3 - 2 * 1) / np.sqrt(7 * 8 * 4 * 5)),  # (tp·tn - fp·fn) / √(…)
        # Three labels, s = 16, c = 12, p = (6, 4, 6), t = (6, 6, 4): (12·16 - 84) / √((256-88)·(256-88)).
        (THREE, 108 / 168),
        # An answer that is no label is a label that is never right: s = 6, c = 4, p = (2, 2, 2), t = (3, 3, 0).
        (STRAYS, (24 - 12) / np.sqrt((36 - 12) * (36 - 18))),
        (np.array([[3.0, 0, 0], [2, 0, 0]]), 0.0),  # one answer for all
        (np.array([[3.0, 2, 0], [0, 0, 0]]), 0.0),  # one label for all
        (np.array([[0.0, 3, 0], [2, 0, 0]]), -1.0),
    ],
)
def test_matthews_equals_the_hand_computed(table: np.ndarray, expected: float) -> None:
    assert matthews(table) == pytest.approx(expected)


def test_macro_f1_equals_the_hand_computed() -> None:
    assert macro_f1(CATS_AND_DOGS) == pytest.approx((12 / 15 + 6 / 9) / 2)
    assert macro_f1(THREE) == pytest.approx((10 / 12 + 6 / 10 + 8 / 10) / 3)
    assert macro_f1(np.array([[3.0, 0, 0], [0, 0, 0]])) == 1  # a label that nobody speaks of does not count
    assert macro_f1(np.zeros((2, 3))) == 0


def test_micro_f1_equals_the_hand_computed() -> None:
    hits, wrong, missed = [4, 1, 0], [1, 0, 2], [0, 3, 1]
    assert micro_f1(np.array([*hits, *wrong, *missed], float)) == pytest.approx(10 / (10 + 3 + 4))
    assert micro_f1(np.zeros(9)) == 0


def test_accuracy_is_the_share_of_right_answers() -> None:
    assert accuracy(CATS_AND_DOGS) == 9 / 12
    assert accuracy(STRAYS) == 4 / 6
    assert accuracy(np.zeros((2, 3))) == 0


@pytest.mark.parametrize("metric", TABLE_METRICS.values(), ids=TABLE_METRICS)
def test_what_is_right_throughout_is_worth_one(metric: object) -> None:
    assert callable(metric)
    assert metric(confusion(np.array([[0, 0], [1, 1], [3, 3], [1, 1]], float), 4)) == pytest.approx(1)
    assert mean_f1([Counts(2, 0, 0), Counts(0, 0, 0)]) == micro_f1(np.array([2, 0, 0, 0, 0, 0], float)) == 1


@given(ANSWERS)
def test_figures_of_any_table_stay_within_their_bounds(pairs: list[tuple[int, int]]) -> None:
    table = confusion(np.array(pairs, float), 4)
    assert table.sum() == len(pairs)
    assert 0 <= accuracy(table) <= 1
    assert 0 <= macro_f1(table) <= 1
    assert -1.0001 <= matthews(table) <= 1.0001
    assert sum(counts.hits + counts.missed for counts in by_label(table)) == len(pairs)


def test_confidence_is_held_against_what_was_right() -> None:
    # Half of those at 0.55 are right, all of those at 0.95: 4/6 · 0.05 + 2/6 · 0.05.
    confidence = np.array([0.55, 0.55, 0.55, 0.55, 0.95, 0.95])
    assert calibration_error(confidence, np.array([1.0, 0, 1, 0, 1, 1]), bins=10) == pytest.approx(0.05)
    assert calibration_error(np.ones(3), np.ones(3)) == 0
    assert calibration_error(np.ones(3), np.zeros(3)) == 1


def test_pearson_equals_the_hand_computed() -> None:
    assert pearson(np.array([1, 2, 3]), np.array([1, 2, 4])) == pytest.approx(3 / np.sqrt(2 * 42 / 9))
    assert pearson(np.array([1, 2, 3]), np.array([5, 5, 5])) == 0


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3, 4, 5], [10, 20, 30, 40, 50], 1.0),
        ([1, 2, 3, 4, 5], [5, 4, 3, 2, 1], -1.0),
        # IQ against hours of television, the usual textbook table: 1 - 6·194/990.
        ([106, 86, 100, 101, 99, 103, 97, 113, 112, 110], [7, 0, 27, 50, 28, 29, 20, 12, 6, 17], -29 / 165),
        # Ties share their mean rank: ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
        ([1, 2, 2, 3], [1, 2, 3, 4], 0.9486833),
        ([1, 1, 2, 2], [1, 1, 2, 2], 1.0),
        ([7, 7, 7], [1, 2, 3], 0.0),
        ([1, 2, 3], [7, 7, 7], 0.0),
    ],
)
def test_spearman_equals_the_hand_computed(first: list[int], second: list[int], expected: float) -> None:
    assert spearman(np.array(first), np.array(second)) == pytest.approx(expected)


@given(PAIRS, st.sampled_from([lambda x: 3 * x + 1, lambda x: x**3, np.exp, np.arctan]))
def test_only_the_order_counts_for_spearman(pairs: list[tuple[int, int]], rising: np.ufunc) -> None:
    first, second = np.array(pairs, np.float64).T
    found = spearman(first, second)
    assert spearman(rising(first), second) == pytest.approx(found)
    assert spearman(first, rising(second)) == pytest.approx(found)
    assert spearman(second, first) == pytest.approx(found)
    assert spearman(-first, second) == pytest.approx(-found)
    assert -1.0001 <= found <= 1.0001


@pytest.mark.parametrize("metric", PAIR_METRICS.values(), ids=PAIR_METRICS)
def test_numbers_that_are_right_throughout_are_worth_one(metric: object) -> None:
    assert callable(metric)
    assert metric(np.array([1.0, 4, 2]), np.array([1.0, 4, 2])) == pytest.approx(1)
