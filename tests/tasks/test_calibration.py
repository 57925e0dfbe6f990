"""Temperature: a known distortion is found again, whatever it was."""

import numpy as np
import pytest

from service.adapters.manifest import Calibration
from service.tasks.calibration import fit_sigmoid_temperature, fit_temperature


@pytest.mark.parametrize("distortion", [0.1, 1.0, 12.0])
def test_the_temperature_undoes_a_known_distortion(distortion: float) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 1.5, (1500, 4)).astype(np.float32)
    right = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)  # drawn as the softmax says
    assert fit_temperature(logits * np.float32(distortion), right) == pytest.approx(distortion, rel=0.08)


@pytest.mark.parametrize("distortion", [0.1, 1.0, 12.0])
def test_the_temperature_of_independent_labels_does_too(distortion: float) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 1.5, (1500, 4)).astype(np.float32)
    right = (generator.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    assert fit_sigmoid_temperature(logits * np.float32(distortion), right) == pytest.approx(distortion, rel=0.08)


@pytest.mark.parametrize("rows", [1, 10, 1000])
def test_a_set_without_a_mistake_does_not_make_scores_certain(rows: int) -> None:
    """Of n right answers the next is right with about (n + 1) / (n + 2)."""
    logits, right = np.tile(np.array([[2, -2]], np.float32), (rows, 1)), np.zeros(rows, np.int64)
    for temperature in (
        fit_temperature(logits, right),
        fit_sigmoid_temperature(logits, np.tile(np.array([[1, 0]], np.float32), (rows, 1))) * 2,
    ):
        doubt = 1 / (1 + np.exp(4 / temperature))
        assert 0.25 / (rows + 1) < doubt < 1 / (rows + 1)


def test_what_is_impossible_does_not_count() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 1.5, (1500, 4)).astype(np.float32)
    right = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    padded = np.concatenate([logits, np.full((1500, 3), -np.inf, np.float32)], axis=1)
    assert fit_temperature(padded, right) == pytest.approx(fit_temperature(logits, right), rel=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_even_all_right_and_all_wrong_give_a_temperature_that_a_manifest_takes(sign: int) -> None:
    logits = np.float32(sign) * np.array([[30, -30], [-30, 30]], np.float32)
    assert Calibration(temperature=fit_temperature(logits, np.array([0, 1])))
    assert Calibration(temperature=fit_sigmoid_temperature(logits, np.eye(2, dtype=np.float32)))
