"""A training that was cut goes on as if nothing had happened; a checkpoint of another one is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from service.adapters.manifest import KindName
from service.adapters.methods import Head, Houlsby, Lora
from service.engine.base_model import BaseModel
from service.errors import BadData
from service.training.checkpoint import Checkpoint
from service.training.outcome import Outcome
from service.training.plan import Plan, read_data
from service.training.recipe import Recipe
from service.training.run import Watch, run
from service.training.trainer import Progress
from tests.training.toys import TOYS, write_jsonl

RECIPE = Recipe(
    epochs=3, learning_rate=1e-2, batch_size=16, dtype=torch.float32
)  # with dropout, so that chance must go on too
WAYS: dict[str, tuple[KindName, dict[str, Any]]] = {
    "houlsby": ("classification", {"method": Houlsby(bottleneck=4)}),
    "head": ("regression", {"method": Head()}),
    "lora": ("tagging", {"method": Lora(rank=2), "recipe": replace(RECIPE, averaging=8.0)}),
    "full": ("answer", {"method": Head(), "recipe": replace(RECIPE, full=True)}),
    "patience": ("multilabel", {"method": Head(norms=True), "recipe": replace(RECIPE, epochs=9, patience=1)}),
}


class Cut(Exception):
    """What ends a training in a test."""


def _plan(folder: Path, way: str, **changes: Any) -> Plan:
    kind, fields = WAYS[way]
    data = write_jsonl(folder / "data.jsonl", kind, TOYS[kind](60, 1))
    plan = Plan(**{"task": "toy", "kind": kind, "recipe": RECIPE, "training": data, "checkpoints": folder, **fields})
    return replace(plan, **changes)


def _run(base: BaseModel, plan: Plan, watch: Watch = lambda run, runs, progress: None) -> Outcome:
    return run(base, plan, read_data(plan), watch)


def _cut(base: BaseModel, plan: Plan, when: Callable[[int, Progress], bool]) -> None:
    def watch(run: int, runs: int, progress: Progress) -> None:
        if when(run, progress):
            raise Cut

    with pytest.raises(Cut):
        _run(base, plan, watch)


def _facts(outcome: Outcome) -> dict[str, Any]:
    """All that a training comes to, but the time it took."""
    return {name: fact for name, fact in outcome.report.items() if name not in ("seconds", "examples_per_second")}


def _checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".jsonl")


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_base: BaseModel, way: str) -> Outcome:
    """A training that nobody cut."""
    return _run(tiny_base, _plan(tmp_path_factory.mktemp("whole"), way, checkpoints=None))


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_training_cut_after_any_epoch_comes_to_the_same_bits(
    tmp_path: Path, tiny_base: BaseModel, way: str, whole: Outcome, epoch: int
) -> None:
    plan = _plan(tmp_path, way)
    epoch = min(epoch, len(whole.report["curve"]))
    _cut(tiny_base, plan, lambda run, progress: progress.epoch == epoch and progress.value is not None)
    assert _checkpoints(tmp_path) == ["toy-0-0.01.checkpoint"]
    epochs = []
    again = _run(tiny_base, replace(plan, resume=True), lambda run, runs, progress: epochs.append(progress.epoch))
    assert again.file == whole.file
    assert _facts(again) == _facts(whole)
    assert sorted(set(epochs)) == list(range(epoch + 1, len(whole.report["curve"]) + 1))
    assert _checkpoints(tmp_path) == []


def test_a_training_cut_within_an_epoch_begins_that_epoch_again(tmp_path: Path, tiny_base: BaseModel) -> None:
    plan = _plan(tmp_path, "houlsby")
    _cut(tiny_base, plan, lambda run, progress: progress.step == 6)
    again = _run(tiny_base, replace(plan, resume=True))
    assert again.file == _run(tiny_base, plan).file


def test_of_several_runs_those_that_are_done_are_not_done_again(tmp_path: Path, tiny_base: BaseModel) -> None:
    plan = _plan(tmp_path, "head", seeds=(1, 2), learning_rates=(1e-2, 1e-3))
    whole = _run(tiny_base, plan)
    _cut(tiny_base, plan, lambda run, progress: run == 3 and progress.epoch == 2)
    assert _checkpoints(tmp_path) == ["toy-1-0.001.checkpoint", "toy-1-0.01.checkpoint", "toy-2-0.01.checkpoint"]
    runs = []
    again = _run(tiny_base, replace(plan, resume=True), lambda run, runs_, progress: runs.append(run))
    assert sorted(set(runs)) == [3, 4]
    assert again.file == whole.file
    assert _facts(again) == _facts(whole)
    assert _checkpoints(tmp_path) == []


def test_without_resume_a_training_begins_anew_and_leaves_other_tasks_alone(
    tmp_path: Path, tiny_base: BaseModel
) -> None:
    plan = _plan(tmp_path, "houlsby")
    other = replace(plan, task="toy-2")
    for one in (plan, other):
        _cut(tiny_base, one, lambda run, progress: progress.epoch == 2)
    epochs = []
    _run(tiny_base, plan, lambda run, runs, progress: epochs.append(progress.epoch))
    assert epochs[0] == 1
    assert _checkpoints(tmp_path) == ["toy-2-0-0.01.checkpoint"]


def test_resume_without_a_checkpoint_is_a_training(tmp_path: Path, tiny_base: BaseModel) -> None:
    plan = _plan(tmp_path, "head")
    assert _run(tiny_base, replace(plan, resume=True)).file == _run(tiny_base, plan).file


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": replace(RECIPE, epochs=4)},
        {"recipe": replace(RECIPE, batch_size=8)},
        {"recipe": replace(RECIPE, dtype=torch.bfloat16)},
        {"method": Houlsby(bottleneck=5)},
        {"metric": "macro_f1"},
        {"max_length": 16},
        {"pooling": "first"},
        {"validation": True},
        {"base": True},
    ],
    ids=str,
)
def test_a_checkpoint_of_another_training_is_refused(
    tmp_path: Path, tiny_base: BaseModel, change: dict[str, Any]
) -> None:
    plan = _plan(tmp_path, "houlsby")
    _cut(tiny_base, plan, lambda run, progress: progress.epoch == 2)
    kept = (tmp_path / "toy-0-0.01.checkpoint").read_bytes()
    base = tiny_base
    if change.get("validation"):
        change = {"validation": write_jsonl(tmp_path / "other.jsonl", "classification", TOYS["classification"](20, 9))}
    if change.get("base"):
        base, change = replace(tiny_base, fingerprint="0" * 64), {}
    with pytest.raises(BadData, match=r"toy-0-0\.01\.checkpoint is of another training .*remove it to begin anew"):
        _run(base, replace(plan, resume=True, **change))
    assert (tmp_path / "toy-0-0.01.checkpoint").read_bytes() == kept


def test_what_is_only_said_of_a_training_does_not_matter(tmp_path: Path, tiny_base: BaseModel) -> None:
    plan = _plan(tmp_path, "houlsby")
    _cut(tiny_base, plan, lambda run, progress: progress.epoch == 2)
    told = replace(plan, resume=True, source="elsewhere", description="A toy.", licence="CC0", test=plan.training)
    assert _run(tiny_base, told).report["test"] is not None


@pytest.mark.parametrize("part", [slice(0), slice(5), slice(200), slice(-1)])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, tiny_base: BaseModel, part: slice) -> None:
    plan = _plan(tmp_path, "head")
    _cut(tiny_base, plan, lambda run, progress: progress.epoch == 2)
    path = tmp_path / "toy-0-0.01.checkpoint"
    path.write_bytes(path.read_bytes()[part])
    with pytest.raises(BadData, match=f"^{path}: not a checkpoint: .*remove it to begin anew"):
        _run(tiny_base, replace(plan, resume=True))


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tmp_path / "toy.checkpoint", "this one")
    checkpoint.write({"step": 1}, {"x": torch.ones(2)})
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(Cut))
    with pytest.raises(Cut):
        checkpoint.write({"step": 2}, {"x": torch.zeros(2)})
    found = checkpoint.read()
    assert found is not None
    assert found[0] == {"step": 1}
    assert torch.equal(found[1]["x"], torch.ones(2))
