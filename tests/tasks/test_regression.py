"""Regression: values in the data's own units, measured by rank."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.adapters.manifest import Calibration
from service.engine.base_model import BaseModel
from service.tasks.regression import Regression, spearman
from tests.tiny import make_manifest

KIND = Regression()
UNITS = Calibration(mean=10, deviation=4)
PAIRS = st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=2, max_size=40)


def test_the_value_is_brought_to_the_datas_units(tiny_base: BaseModel) -> None:
    manifest = make_manifest(tiny_base, kind="regression", calibration=UNITS)
    answer, outputs = KIND.decode(manifest, np.array([-0.5], np.float32))
    assert answer == {"value": 8.0}
    assert outputs.tolist() == [8.0]


@given(st.floats(-1000, 1000, width=32))
def test_targets_and_decoding_are_inverses(tiny_base: BaseModel, value: float) -> None:
    manifest = make_manifest(tiny_base, kind="regression", calibration=UNITS)
    raw = KIND.targets(manifest, [str(value)]).numpy()
    assert KIND.decode(manifest, raw).answer["value"] == pytest.approx(value, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("label", ["many", "", "nan", "inf", "-inf", "1,5"])
def test_a_label_that_is_no_finite_number_is_named_with_its_row(tiny_base: BaseModel, label: str) -> None:
    with pytest.raises(ValueError, match=f"row 3: '{label}' is not a finite number"):
        KIND.targets(make_manifest(tiny_base, kind="regression"), ["1", "-2.5e3", label])


def test_the_loss_is_the_mean_square() -> None:
    assert KIND.loss(torch.tensor([[1.0], [2.0]]), torch.tensor([3.0, 1.0])).item() == 2.5


def test_the_score_is_spearmans() -> None:
    outputs = np.array([[0.1], [0.4], [0.2], [0.9]], np.float32)
    assert KIND.score(outputs, np.array([1, 2, 3, 4])) == pytest.approx(0.8)  # one swap of neighbours: 1 - 6·2/60


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
