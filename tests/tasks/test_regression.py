"""Regression: values in the data's own units, measured by rank."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.adapters.manifest import Calibration
from service.engine.base_model import BaseModel
from service.tasks import Label, Labelled
from service.tasks.regression import Regression
from tests.tiny import UNREAD, make_manifest

KIND = Regression()
UNITS = Calibration(mean=10, deviation=4)


def test_the_value_is_brought_to_the_datas_units(tiny_base: BaseModel) -> None:
    manifest = make_manifest(tiny_base, kind="regression", calibration=UNITS)
    answer, outputs = KIND.decode(manifest, UNREAD, [np.array([-0.5], np.float32)])
    assert answer == {"value": 8.0}
    assert outputs.tolist() == [8.0]


@given(st.floats(-1000, 1000, width=32))
def test_targets_and_decoding_are_inverses(tiny_base: BaseModel, value: float) -> None:
    manifest = make_manifest(tiny_base, kind="regression", calibration=UNITS)
    [target] = KIND.targets(manifest, UNREAD, str(value))
    answer = KIND.decode(manifest, UNREAD, [target.float().numpy()[None]]).answer
    assert answer["value"] == pytest.approx(value, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("label", ["many", "", "nan", "inf", "-inf", "1,5", ("1", "2"), ()])
def test_a_label_that_is_no_finite_number_is_named(tiny_base: BaseModel, label: Label) -> None:
    with pytest.raises(ValueError, match=r"is not a finite number$"):
        KIND.check_label(make_manifest(tiny_base, kind="regression"), label)


@pytest.mark.parametrize("label", ["1", "-2.5e3", " 7 "])
def test_a_number_is_a_label(tiny_base: BaseModel, label: str) -> None:
    KIND.check_label(make_manifest(tiny_base, kind="regression"), label)


def test_the_loss_is_the_mean_square() -> None:
    targets = [torch.tensor(3.0), torch.tensor(1.0)]
    assert KIND.loss(torch.tensor([[1.0], [2.0]]), targets, torch.tensor([5, 5])).item() == 2.5


def test_calibration_leaves_the_datas_units_alone(tiny_base: BaseModel) -> None:
    manifest = make_manifest(tiny_base, kind="regression", calibration=UNITS)
    assert KIND.calibrate(manifest, [[np.zeros(1, np.float32)]], Labelled([UNREAD], ["3"]), "spearman") == UNITS


def test_answers_are_measured_by_their_order(tiny_base: BaseModel) -> None:
    manifest = make_manifest(tiny_base, kind="regression")
    pairs = [(0.1, "1"), (0.4, "2"), (0.2, "3"), (0.9, "4")]
    tallies = np.array([KIND.tally(manifest, {"value": value}, label) for value, label in pairs])
    assert KIND.figure(manifest, "spearman", tallies) == pytest.approx(0.8)  # one swap of neighbours: 1 - 6·2/60
    assert KIND.figure(manifest, "pearson", tallies) == pytest.approx(1.1 / np.sqrt(5 * 0.38))
    assert KIND.counts(manifest, tallies) == {}
