"""Training learns, repeats itself, and leaves the base alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from service.adapters.manifest import Calibration
from service.adapters.methods import AnyMethod, Head, Houlsby
from service.engine.base_model import BaseModel
from service.training.trainer import Progress, Recipe, Trained, prepare, score, start_tensors, train
from tests.tiny import make_manifest
from tests.training.toys import counting, sentiment

QUICK = Recipe(epochs=4, learning_rate=1e-2, batch_size=16, dtype=torch.float32)
WAYS: dict[str, tuple[AnyMethod, Recipe]] = {
    "houlsby": (Houlsby(bottleneck=8), QUICK),
    "head": (Head(), replace(QUICK, epochs=30, learning_rate=3e-2, dropout=0.0)),
    "full": (Head(), replace(QUICK, learning_rate=3e-3, full=True)),
}


def _train(base: BaseModel, way: str, **changes: Any) -> Trained:
    method, recipe = WAYS[way]
    manifest = make_manifest(base, method=method)
    training, validation = (prepare(base, manifest, sentiment(count, seed)) for count, seed in ((160, 1), (40, 2)))
    return train(base, manifest, training, validation, replace(recipe, **changes))


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def before(tiny_base: BaseModel) -> list[Tensor]:
    return [tensor.clone() for tensor in tiny_base.weights.tensors()]


@pytest.fixture(scope="module")
def trained(tiny_base: BaseModel, way: str, before: list[Tensor]) -> Trained:
    return _train(tiny_base, way)


def test_a_task_that_anyone_can_learn_is_learned(tiny_base: BaseModel, way: str, trained: Trained) -> None:
    manifest = make_manifest(tiny_base, method=WAYS[way][0])
    fresh = prepare(tiny_base, manifest, sentiment(100, seed=3))
    assert trained.value >= 0.9
    assert score(tiny_base, manifest, trained, fresh) >= 0.9
    untrained = Trained(start_tensors(tiny_base, manifest, torch.Generator().manual_seed(0)), 0.0, 0)
    assert score(tiny_base, manifest, untrained, fresh) < 0.9


def test_the_base_is_bit_for_bit_what_it_was(tiny_base: BaseModel, trained: Trained, before: list[Tensor]) -> None:
    for one, other in zip(before, tiny_base.weights.tensors(), strict=True):
        assert torch.equal(one, other)
        assert not other.requires_grad


def test_only_fine_tuning_gives_weights_of_the_base(
    tiny_base: BaseModel, way: str, trained: Trained, before: list[Tensor]
) -> None:
    assert (trained.weights is not None) == (way == "full")
    if trained.weights is not None:
        moved = [not torch.equal(one, other) for one, other in zip(before, trained.weights.tensors(), strict=True)]
        assert all(moved)


def test_what_was_trained_is_counted(tiny_base: BaseModel, way: str, trained: Trained) -> None:
    head = 2 * 32 + 2
    adapters = 4 * (2 * 8 * 32 + 32 + 8 + 2 * 32)
    expected = {"houlsby": adapters + head, "head": head, "full": tiny_base.parameters + head}
    assert trained.trainable == expected[way]


def test_the_best_epoch_is_kept(trained: Trained) -> None:
    assert trained.value == max(trained.curve) == trained.curve[trained.epoch - 1]
    assert trained.epoch == trained.curve.index(trained.value) + 1


def test_the_same_seed_gives_the_same_tensors_and_another_seed_others(tiny_base: BaseModel, way: str) -> None:
    one, same, other = (_train(tiny_base, way, epochs=1, dropout=0.1, seed=seed) for seed in (1, 1, 2))
    assert one.tensors.keys() == same.tensors.keys()
    assert all(torch.equal(tensor, same.tensors[name]) for name, tensor in one.tensors.items())
    assert one.curve == same.curve
    assert not all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def test_training_leaves_torchs_own_randomness_alone(tiny_base: BaseModel) -> None:
    state = torch.random.get_rng_state()
    _train(tiny_base, "houlsby", epochs=1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_half_precision_learns_too_and_what_it_trains_stays_float32(tiny_base: BaseModel) -> None:
    trained = _train(tiny_base, "houlsby", dtype=torch.bfloat16)
    assert trained.value >= 0.9
    assert {tensor.dtype for tensor in trained.tensors.values()} == {torch.float32}


def test_pairs_are_learned_from_the_second_text(tiny_base: BaseModel) -> None:
    manifest = make_manifest(tiny_base, pair=True, method=Houlsby(bottleneck=8))
    training, validation = (
        prepare(tiny_base, manifest, sentiment(count, seed, pair=True)) for count, seed in ((160, 1), (40, 2))
    )
    assert train(tiny_base, manifest, training, validation, QUICK).value >= 0.9


def test_regression_learns_a_rank(tiny_base: BaseModel) -> None:
    units = Calibration(mean=125, deviation=17)
    manifest = make_manifest(tiny_base, kind="regression", method=Houlsby(bottleneck=8), calibration=units)
    training, validation = (prepare(tiny_base, manifest, counting(count, seed)) for count, seed in ((240, 1), (60, 2)))
    assert train(tiny_base, manifest, training, validation, QUICK).value >= 0.9


def test_progress_is_told_step_by_step(tiny_base: BaseModel) -> None:
    told: list[Progress] = []
    manifest = make_manifest(tiny_base, method=Head())
    training, validation = (prepare(tiny_base, manifest, sentiment(count)) for count in (33, 10))
    trained = train(tiny_base, manifest, training, validation, Recipe(epochs=2, batch_size=16), told.append)
    steps = [progress for progress in told if progress.value is None]
    assert [(progress.epoch, progress.step) for progress in steps] == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6)]
    assert {progress.steps for progress in told} == {6}
    assert [progress.value for progress in told if progress.value is not None] == trained.curve


def test_the_rate_rises_then_falls_to_nothing(tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def recording(optimizer: torch.optim.AdamW) -> None:
        rates.append(optimizer.param_groups[0]["lr"])
        step(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", recording)
    _train(tiny_base, "head", epochs=2, learning_rate=1.0)
    assert len(rates) == 20  # two epochs of ten batches: two rising, then down to zero
    np.testing.assert_allclose(rates, [0.5, 1.0, *(n / 18 for n in range(18, 0, -1))])


def test_measuring_keeps_the_order_of_the_rows(tiny_base: BaseModel) -> None:
    manifest = make_manifest(tiny_base, method=WAYS["houlsby"][0])
    trained = _train(tiny_base, "houlsby", epochs=1, learning_rate=1e-4)
    examples = sentiment(30, seed=5)
    one_by_one = [score(tiny_base, manifest, trained, prepare(tiny_base, manifest, [example])) for example in examples]
    assert 0 < np.mean(one_by_one) < 1
    assert score(tiny_base, manifest, trained, prepare(tiny_base, manifest, examples)) == pytest.approx(
        np.mean(one_by_one)
    )


@pytest.mark.parametrize("pair", [True, False])
def test_pairs_and_single_texts_are_not_mixed_up(tiny_base: BaseModel, pair: bool) -> None:
    manifest = make_manifest(tiny_base, pair=pair)
    examples = [*sentiment(2, pair=pair), *sentiment(1, pair=not pair)]
    with pytest.raises(ValueError, match=f"row 3: the task reads {'two texts' if pair else 'one text'}"):
        prepare(tiny_base, manifest, examples)
