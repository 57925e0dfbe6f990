"""Every training of the experiment runs once, and a report is of the very training that it says it is."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

import reproduce
from data_sets import DATASETS
from reproduce import EXPERIMENTS, LINES, WAYS, Run, runs
from service.cli import main
from service.cli.plan import make_plan
from service.cli.training import train as train_command
from service.training.recipe import RECIPES
from tests.benchmarks.made_up import report

SEEDED = {"emotion", "entailment", "entities", "paraphrase", "spam", "stance"}
SPAM = next(dataset for dataset in DATASETS if dataset.task == "spam")


class Trainer:
    """Stands for `rootstock train`, and remembers what it was asked."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.broken: set[str] = set()  # recipes

    def run(self, command: list[str], **_: Any) -> SimpleNamespace:
        self.commands.append(command)
        if command[command.index("--method") + 1] in self.broken:
            return SimpleNamespace(returncode=1)
        facts = report("spam", 0.9)
        facts["measured"]["test"] |= {"confusion": [[1]], "by_label": {}}
        Path(command[command.index("--report") + 1]).write_text(json.dumps(facts))
        return SimpleNamespace(returncode=0)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Trainer:
    trainer = Trainer()
    monkeypatch.setattr(reproduce, "subprocess", trainer)
    monkeypatch.setattr(reproduce, "REPORTS", tmp_path / "reports")
    (tmp_path / "data" / "spam").mkdir(parents=True)
    for part in reproduce.PARTS:
        (tmp_path / "data" / "spam" / f"{part}.jsonl").write_text(f"{part}\n" * 1000)
    return trainer


@pytest.fixture
def train(trainer: Trainer, tmp_path: Path) -> Callable[..., bool]:
    def train(recipe: str = "houlsby", seed: int = 0) -> bool:
        return reproduce.train(Run(SPAM, recipe, seed), tmp_path / "data", tmp_path / "work")

    return train


def test_every_training_runs_once() -> None:
    assert max(Counter(run.name for run in runs()).values()) == 1
    found = {(run.dataset.task, run.recipe) for run in runs()}
    assert found == {(task, recipe) for recipes, tasks in EXPERIMENTS.values() for recipe in recipes for task in tasks}


def test_small_tasks_have_three_seeds_for_every_method_alike() -> None:
    seeds: dict[tuple[str, str], set[int]] = {}
    for run in runs(only=["main"]):
        seeds.setdefault((run.dataset.task, run.recipe), set()).add(run.seed)
    assert seeds == {
        (dataset.task, recipe): {0, 1, 2} if dataset.task in SEEDED else {0}
        for dataset in DATASETS
        for recipe in ("houlsby", "full", "head")
    }


def test_only_what_is_asked_for_runs() -> None:
    assert {run.recipe for run in runs(only=["methods"], among=["few-lora"])} == {"few-lora"}
    assert {run.seed for run in runs(only=["methods"])} == {0}


def test_what_is_drawn_is_trained() -> None:
    trained = {run.recipe for run in runs()}
    assert {recipe for recipes in LINES.values() for recipe in recipes} <= trained <= WAYS.keys()


@pytest.mark.parametrize("recipe", WAYS)
def test_a_report_names_the_recipe_that_the_command_trains_with(
    recipe: str, trainer: Trainer, train: Callable[..., bool]
) -> None:
    train(recipe, seed=1)
    arguments = trainer.commands[0][trainer.commands[0].index("train") + 1 :]
    program = click.Context(main, **main.context_settings)
    plan = make_plan(Path(arguments[0]), train_command.make_context("train", arguments, parent=program).params)
    rate = plan.learning_rates[0] if plan.learning_rates else plan.recipe.learning_rate
    assert replace(plan.recipe, learning_rate=rate) == replace(WAYS[recipe].recipe, seed=1)


def test_of_few_rows_the_same_ones_are_drawn_each_time(
    trainer: Trainer, train: Callable[..., bool], tmp_path: Path
) -> None:
    lines = [f"row {number}\n" for number in range(1200)]
    (tmp_path / "data" / "spam" / "train.jsonl").write_text("".join(lines))
    drawn = []
    for recipe in ("few-houlsby", "few-full"):
        assert train(recipe)
        file = Path(trainer.commands[-1][trainer.commands[-1].index("train") + 1])
        drawn.append(file.read_text().splitlines(keepends=True))
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 1000
    assert set(drawn[0]) < set(lines)


def test_a_report_is_kept_while_nothing_changes(trainer: Trainer, train: Callable[..., bool], tmp_path: Path) -> None:
    assert train()
    assert train()
    assert len(trainer.commands) == 1
    kept = json.loads((tmp_path / "reports" / "spam-houlsby-0.json").read_text())
    assert kept["run"]["data"].keys() == {"train", "validation", "test"}
    assert "confusion" not in kept["measured"]["test"]
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["spam-houlsby-0.json"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data", "is of other data"),
        ("recipe", "is of other recipe"),
        ("half", "is not readable"),
        ("old", "does not say what it was trained with"),
    ],
)
def test_a_report_of_another_training_is_made_anew(
    change: str, said: str, trainer: Trainer, train: Callable[..., bool], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    train()
    path = tmp_path / "reports" / "spam-houlsby-0.json"
    whole = path.read_text()
    if change == "data":
        (tmp_path / "data" / "spam" / "test.jsonl").write_text("another")
    elif change == "recipe":
        monkeypatch.setitem(RECIPES, "houlsby", replace(RECIPES["houlsby"], learning_rate=0.5))
    else:
        path.write_text(whole[: len(whole) // 2] if change == "half" else json.dumps(report("spam", 0.9)))
    assert train()
    assert f"spam-houlsby-0: trained anew, for its report {said}" in capsys.readouterr().out
    assert len(trainer.commands) == 2
    assert ("--resume" in trainer.commands[1]) == (change in ("half", "old"))  # the training itself is the same
    assert train()
    assert len(trainer.commands) == 2


def test_a_cut_training_goes_on_and_another_begins_anew(trainer: Trainer, train: Callable[..., bool]) -> None:
    trainer.broken = {"houlsby"}
    assert not train()
    assert not train()
    assert ["--resume" in command for command in trainer.commands] == [False, True]


def test_a_training_that_fails_fails_the_whole_in_the_end(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = [Run(SPAM, recipe, 0) for recipe in ("houlsby", "full", "head")]
    monkeypatch.setattr(reproduce, "runs", lambda only, among: planned)
    command = ["reproduce.py", "--data", str(tmp_path / "data"), "--work", str(tmp_path / "work"), "--jobs", "1"]
    monkeypatch.setattr(sys, "argv", command)
    trainer.broken = {"houlsby"}
    with pytest.raises(SystemExit, match="1 of 3 trainings failed: spam-houlsby-0"):
        reproduce.main()
    assert len(trainer.commands) == 3
    assert {path.stem for path in (tmp_path / "reports").iterdir()} == {"spam-full-0", "spam-head-0"}
    trainer.broken = set()
    reproduce.main()
    assert len(trainer.commands) == 4
