"""Training learns, repeats itself, and leaves the base alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from service.adapters.manifest import Calibration, KindName, Manifest
from service.adapters.methods import AnyMethod, Head, Houlsby, Lora, Parallel, Pfeiffer, PrefixTuning
from service.engine.base_model import BaseModel
from service.errors import BadData
from service.tasks import KINDS, Floats
from service.training.answers import decoded, raw_outputs
from service.training.data import Example
from service.training.measure import value_of
from service.training.models import Model, start_tensors
from service.training.recipe import Recipe
from service.training.sets import Set, prepare
from service.training.trainer import (
    Progress,
    Trained,
    Worth,
    _optimizer,
    train,
)
from service.training.workers import Workers
from tests.tiny import make_manifest
from tests.training.toys import LABELS, TOYS, sentiment

QUICK = Recipe(epochs=4, learning_rate=1e-2, batch_size=16, dtype=torch.float32)
LONGER = replace(QUICK, epochs=8, learning_rate=2e-2)
HEAD = replace(QUICK, epochs=30, learning_rate=3e-2, dropout=0.0)
FULL = replace(QUICK, learning_rate=3e-3, full=True)
WAYS: dict[str, tuple[KindName, AnyMethod, Recipe]] = {
    "houlsby": ("classification", Houlsby(bottleneck=8), QUICK),
    "pfeiffer": ("classification", Pfeiffer(bottleneck=8), QUICK),
    "lora": ("classification", Lora(rank=4), QUICK),
    "head": ("classification", Head(), HEAD),
    "full": ("classification", Head(), FULL),
    "multilabel, lora": ("multilabel", Lora(rank=8, norms=True), replace(QUICK, epochs=8)),
    "multilabel, prefix": ("multilabel", PrefixTuning(length=4, norms=True), replace(QUICK, epochs=8)),
    "regression, parallel": ("regression", Parallel(bottleneck=8), QUICK),
    "tagging, houlsby": ("tagging", Houlsby(bottleneck=16), LONGER),
    "tagging, lora": ("tagging", Lora(rank=8, norms=True), LONGER),
    "answer, parallel": ("answer", Parallel(bottleneck=16), QUICK),
    "answer, head": ("answer", Head(), HEAD),
}


def _manifest(base: BaseModel, way: str) -> Manifest:
    kind, method, _ = WAYS[way]
    units = Calibration(mean=125, deviation=17) if kind == "regression" else Calibration()
    return make_manifest(base, kind=kind, labels=LABELS.get(kind, ()), method=method, calibration=units)


def _set(base: BaseModel, way: str, count: int, seed: int) -> Set:
    return prepare(base, _manifest(base, way), TOYS[WAYS[way][0]](count, seed))


def _train(
    base: BaseModel, way: str, report: Callable[[Progress], None] = lambda progress: None, **changes: Any
) -> Trained:
    kind, _, recipe = WAYS[way]
    training, validation = (_set(base, way, count, seed) for count, seed in ((160, 1), (40, 2)))
    recipe = replace(recipe, **changes)
    return train(base, _manifest(base, way), training, validation, recipe, KINDS[kind].metrics[0], report)


def _raw(model: Model, examples: Set) -> list[list[Floats]]:
    with Workers() as workers:
        return raw_outputs(model, examples, workers)


def _score(base: BaseModel, way: str, trained: Trained, examples: Set) -> float:
    manifest = _manifest(base, way)
    answers = decoded(manifest, examples, _raw(trained.model(base, manifest), examples))
    return value_of(manifest, KINDS[manifest.kind].metrics[0], answers, examples.labels)


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
    fresh = _set(tiny_base, way, 100, seed=3)
    assert trained.value >= 0.9
    assert _score(tiny_base, way, trained, fresh) >= 0.85
    start = start_tensors(tiny_base, _manifest(tiny_base, way), torch.Generator().manual_seed(0))
    assert _score(tiny_base, way, Trained(start, Worth(0.0, 0.0), 0), fresh) < 0.8


def test_the_base_is_bit_for_bit_what_it_was(tiny_base: BaseModel, trained: Trained, before: list[Tensor]) -> None:
    for one, other in zip(before, tiny_base.weights.tensors(), strict=True):
        assert torch.equal(one, other)
        assert not other.requires_grad
        assert other.grad is None


def test_all_that_is_meant_to_be_trained_has_moved_and_nothing_else(
    tiny_base: BaseModel, way: str, trained: Trained, before: list[Tensor]
) -> None:
    recipe = WAYS[way][2]
    start = start_tensors(tiny_base, _manifest(tiny_base, way), torch.Generator().manual_seed(recipe.seed))
    assert start.keys() == trained.tensors.keys()
    assert not [name for name, tensor in trained.tensors.items() if torch.equal(tensor, start[name])]
    assert (trained.weights is not None) == recipe.full
    if trained.weights is not None:
        moved = [not torch.equal(one, other) for one, other in zip(before, trained.weights.tensors(), strict=True)]
        assert all(moved)
    base = tiny_base.parameters if recipe.full else 0
    assert trained.trainable == base + sum(tensor.numel() for tensor in trained.tensors.values())


def test_the_best_epoch_is_kept(trained: Trained) -> None:
    assert trained.value == max(trained.curve) == trained.curve[trained.epoch - 1]


def test_of_epochs_that_answer_alike_the_surest_is_kept(tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.training.trainer.value_of", lambda *_: 0.5)
    trained = _train(tiny_base, "houlsby", epochs=3)
    assert (trained.curve, trained.epoch) == ([0.5] * 3, 3)  # it goes on learning


@pytest.mark.parametrize("way", ["houlsby", "full"])
def test_averaged_weights_are_the_mean_of_the_steps(
    tiny_base: BaseModel, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At η = 0 every step counts alike."""
    followed: list[Sequence[Tensor]] = []
    steps: list[list[Tensor]] = []

    def spied(trainable: Sequence[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
        followed.append(trainable)
        return _optimizer(trainable, recipe)

    monkeypatch.setattr("service.training.trainer._optimizer", spied)

    def watch(progress: Progress) -> None:
        if progress.value is None:
            steps.append([tensor.detach().clone() for tensor in followed[0]])

    trained = _train(tiny_base, way, watch, epochs=1, averaging=0.0)
    assert len(steps) == 10
    for number, tensor in enumerate(trained.tensors.values()):
        torch.testing.assert_close(tensor, torch.stack([step[number] for step in steps]).mean(dim=0))


def test_averaging_does_not_disturb_the_training(tiny_base: BaseModel) -> None:
    losses: dict[float | None, list[float]] = {None: [], 8.0: []}
    for averaging, seen in losses.items():
        _train(tiny_base, "houlsby", lambda progress, seen=seen: seen.append(progress.loss), averaging=averaging)  # type: ignore[misc]
    assert losses[None] == losses[8.0]


@pytest.mark.parametrize("way", ["houlsby", "head", "full"])
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
    assert train(tiny_base, manifest, training, validation, QUICK, "accuracy").value >= 0.9


def test_no_better_figure_for_a_while_ends_a_training(tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = [0.1, 0.3, 0.2, 0.3, 0.9, 0.9, 0.9]
    given = iter(figures)
    monkeypatch.setattr("service.training.trainer.value_of", lambda *_: next(given))
    monkeypatch.setattr("service.tasks.classification.Classification.loss", lambda self, outputs, *_: outputs.sum() * 0)
    patient = _train(tiny_base, "head", epochs=5, patience=3)
    assert (patient.curve, patient.epoch) == (figures[:5], 5)
    given = iter(figures)
    hasty = _train(tiny_base, "head", epochs=5, patience=2)
    assert (hasty.curve, hasty.value, hasty.epoch) == (figures[:4], 0.3, 2)


@pytest.mark.parametrize("way", ["houlsby", "head", "answer, parallel"])
def test_a_rate_that_leads_nowhere_ends_with_a_sentence(tiny_base: BaseModel, way: str) -> None:
    with pytest.raises(BadData, match=r"learning rate 1e\+38; try a smaller one"):
        _train(tiny_base, way, epochs=2, learning_rate=1e38)


def test_a_training_that_diverges_keeps_what_was_best(tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.training.trainer._rate", lambda step, *_: 1.0 if step < 20 else 1e38)
    trained = _train(tiny_base, "houlsby", epochs=5)
    assert len(trained.curve) in (2, 3)
    assert all(torch.isfinite(tensor).all() for tensor in trained.tensors.values())
    assert trained.value >= 0.8


def test_progress_is_told_step_by_step(tiny_base: BaseModel) -> None:
    told: list[Progress] = []
    manifest = make_manifest(tiny_base, method=Head())
    training, validation = (prepare(tiny_base, manifest, sentiment(count)) for count in (33, 10))
    trained = train(tiny_base, manifest, training, validation, Recipe(epochs=2, batch_size=16), "accuracy", told.append)
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


@pytest.mark.parametrize("way", ["houlsby", "tagging, lora", "answer, parallel"])
def test_measuring_keeps_the_order_of_the_rows(tiny_base: BaseModel, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.training.answers.BATCH_TOKENS", 50)
    manifest = _manifest(tiny_base, way)
    start = start_tensors(tiny_base, manifest, torch.Generator().manual_seed(0))
    model = Trained(start, Worth(0.0, 0.0), 0).model(tiny_base, manifest)
    examples = TOYS[WAYS[way][0]](30, 5)
    together = _raw(model, prepare(tiny_base, manifest, examples))
    for example, raw in zip(examples, together, strict=True):
        [alone] = _raw(model, prepare(tiny_base, manifest, [example]))
        assert len(alone) == len(raw)
        for one, other in zip(alone, raw, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    "way", ["houlsby", "multilabel, prefix", "regression, parallel", "tagging, houlsby", "answer, head", "full"]
)
def test_threads_that_share_a_batch_learn_what_one_learns(tiny_base: BaseModel, way: str) -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(_train(tiny_base, way, epochs=1, dropout=0.0))
    finally:
        torch.set_num_threads(before)
    for name, alone in found[0].tensors.items():
        torch.testing.assert_close(found[1].tensors[name], alone, atol=2e-3, rtol=2e-3)


def test_texts_without_a_word_teach_a_tagger_nothing_and_harm_nothing(tiny_base: BaseModel) -> None:
    manifest = _manifest(tiny_base, "tagging, houlsby")
    validation = _set(tiny_base, "tagging, houlsby", 10, seed=1)
    training = prepare(tiny_base, manifest, [Example("\u200b", None, ()), *TOYS["tagging"](3, 0)])
    assert not training.readings[0].rows[0].words.max() >= 0  # type: ignore[union-attr]
    trained = train(tiny_base, manifest, training, validation, replace(QUICK, epochs=2, batch_size=1), "f1")
    assert len(trained.curve) == 2
    assert all(tensor.isfinite().all() for tensor in trained.tensors.values())


@pytest.mark.parametrize("pair", [True, False])
def test_pairs_and_single_texts_are_not_mixed_up(tiny_base: BaseModel, pair: bool) -> None:
    manifest = make_manifest(tiny_base, pair=pair)
    examples = [*sentiment(2, pair=pair), *sentiment(1, pair=not pair)]
    with pytest.raises(ValueError, match=f"row 3: the task reads {'two texts' if pair else 'one text'}"):
        prepare(tiny_base, manifest, examples)
