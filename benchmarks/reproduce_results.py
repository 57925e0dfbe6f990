"""What the trainings of `benchmarks/reproduce.py` came to: their reports, and figures over seeds and tasks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal, NamedTuple

from data_sets import DATASETS
from reproduce import FEW, read_json
from service.adapters.file import digest

Report = dict[str, Any]
Part = Literal["validation", "test"]
METRICS = {"macro_f1": "macro F1", "f1": "F1", "matthews": "Matthews", "spearman": "Spearman"}


class Score(NamedTuple):
    """A figure over seeds."""

    mean: float
    deviation: float | None  # between seeds; None where there is only one


class Point(NamedTuple):
    """What a recipe trains, and what becomes of the metric; means over seeds."""

    recipe: str
    parameters: float  # mean over the tasks
    changes: dict[str, float]  # task → points from full fine-tuning, on test

    @property
    def change(self) -> float:
        return mean(self.changes.values())


class Difference(NamedTuple):
    """How far a recipe is from full fine-tuning on test, in points, and how sure that is."""

    points: float
    error: float  # standard error
    seeds: tuple[int, int] | None  # of both, whose spread gives it; None: from the intervals of one report each


@dataclass(frozen=True)
class Results:
    """Reports by task, recipe and seed, and the results of the checks where there are some."""

    reports: dict[tuple[str, str, int], Report]
    ablation: dict[str, Any] | None
    forgetting: dict[str, Any] | None

    @classmethod
    def read(cls, folder: Path) -> "Results":
        reports = {}
        for path in sorted((folder / "reproduce").glob("*.json")):
            report = read_json(path)
            if report is None:
                print(f"{path}: not readable; left out")
            else:
                recipe, seed = path.stem.removeprefix(f"{report['task']}-").rsplit("-", 1)
                reports[report["task"], recipe, int(seed)] = report
        return cls(
            reports, read_json(folder / "reproduce_ablation.json"), read_json(folder / "reproduce_forgetting.json")
        )

    def runs(self, task: str, recipe: str) -> list[Report]:
        """One for each seed: where it was trained at a lower learning rate too, the better one on validation."""
        found: dict[int, Report] = {}
        for (name, way, seed), report in sorted(self.reports.items()):
            if name == task and way in (recipe, f"{recipe}-lower"):
                found[seed] = max(found.get(seed, report), report, key=lambda one: float(one["validation"]))
        return list(found.values())

    def score(self, task: str, recipe: str, part: Part = "test") -> Score | None:
        """The metric in points: 100 times what it is."""
        return over_seeds(100 * run[part] for run in self.runs(task, recipe))

    def calibration_error(self, task: str, recipe: str) -> Score | None:
        """On test, in points."""
        errors = (run["measured"]["test"].get("calibration_error") for run in self.runs(task, recipe))
        return over_seeds(100 * error for error in errors if error is not None)

    def share(self, task: str, recipe: str) -> float | None:
        """Trained parameters by those of the base."""
        runs = self.runs(task, recipe)
        return float(runs[0]["share_of_base"]) if runs else None

    def change(self, task: str, recipe: str, part: Part = "test") -> float | None:
        """Points from full fine-tuning with as many rows."""
        tuned, full = self.score(task, recipe, part), self.score(task, yardstick(recipe), part)
        return tuned.mean - full.mean if tuned and full else None

    def difference(self, task: str, recipe: str) -> Difference | None:
        """`change`, with its uncertainty: between seeds where both have several, else between test sets of this size.

        For the latter the two are taken as two samples, which makes it rather too large: they share their rows.
        """
        change, both = self.change(task, recipe), [self.runs(task, name) for name in (recipe, yardstick(recipe))]
        if change is None:
            return None
        seeds = (len(both[0]), len(both[1]))
        if min(seeds) > 1:
            return Difference(
                change, hypot(*(stdev(100 * run["test"] for run in of) / sqrt(len(of)) for of in both)), seeds
            )
        return Difference(change, hypot(*(_standard_error(of[0]) for of in both)), None)

    def point(self, recipe: str, tasks: Sequence[str]) -> Point | None:
        """A recipe over those of `tasks` that have both it and full fine-tuning."""
        changes = {task: change for task in tasks if (change := self.change(task, recipe)) is not None}
        if not changes:
            return None
        return Point(recipe, mean(self.runs(task, recipe)[0]["trained_parameters"] for task in changes), changes)


def yardstick(recipe: str) -> str:
    """Full fine-tuning with as many rows."""
    return f"{FEW}full" if recipe.startswith(FEW) else "full"


def adapter_file(work: Path, report: Report) -> Path | None:
    """The file that this report is of, if it is among what `benchmarks/reproduce.py` left in WORK; else says so."""
    task, seed = report["task"], report["recipe"]["seed"]
    for path in work.glob(f"{task}-*-{seed}/{task}-1.safetensors"):
        if digest(path.read_bytes()) == report["digest"]:
            return path
    print(f"{work}: no file of {task} with seed {seed} has the digest {report['digest']}")
    return None


def metric_name(task: str) -> str:
    """As a reader says it."""
    metric = next(dataset.metric for dataset in DATASETS if dataset.task == task)
    return METRICS.get(metric, metric)


def _standard_error(report: Report) -> float:
    """From the 95 % interval of the test's figure, taken as normal; in points."""
    low, high = report["measured"]["test"]["interval"]
    return float(100 * (high - low) / (2 * 1.96))


def over_seeds(values: Iterable[float]) -> Score | None:
    found = list(values)
    if not found:
        return None
    return Score(mean(found), stdev(found) if len(found) > 1 else None)
