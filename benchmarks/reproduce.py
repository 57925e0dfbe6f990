"""The adapter paper's experiment on our own ground: what tuning reaches, and what it costs, over many tasks.

    python benchmarks/reproduce.py --data PREPARED --work WORK [--jobs 2] [--only NAME …] [--recipes NAME …]

PREPARED is what `benchmarks/data_sets.py` wrote. Each training is one call of `rootstock train`, and leaves one report
in `benchmarks/results/reproduce/`, which says under `run` what it was trained with: arguments, the method's recipe,
and the data's hashes. What has a report with the same is not trained again, and what was cut goes on from its last
epoch. A training that fails is named, the others go on, and the exit code is 1.

Experiments (Houlsby et al. 2019, the section they answer to):

    main       adapters, full fine-tuning and the head alone, on every task              3.2, 3.3; tables 1 and 2
    rates      adapters and full fine-tuning at a lower rate, where adapters do worse    3.1, of each training the
               on validation than full fine-tuning                                       better rate on validation
    sizes      bottlenecks from 2 to 96, the LayerNorms alone, the top layers alone      3.4; figures 3 and 4
    methods    the other ways of tuning, at their usual sizes
    scales     the start values' deviation, from 1e-7 to 1                               3.6; figure 6, right

The last three are on tasks of short texts, with 1,000 of their training rows.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from data_sets import DATASETS, DataSet
from service.training.recipe import RECIPES, Recipe

HERE = Path(__file__).parent
REPORTS = HERE / "results" / "reproduce"
PARTS = ("train", "validation", "test")
Facts = dict[str, Any]
SMALL = ("emotion", "entailment", "entities", "paraphrase", "spam", "stance")  # fewer than 4,000 training rows
SIZES = (2, 8, 32, 96)  # besides houlsby's own 64
TOPS = (1, 2, 3, 4, 5)  # adapters in so many layers, from the last one down
SCALES = range(-7, 1)
# Where `main` leaves adapters more than two points behind full fine-tuning on validation.
BEHIND = ("acceptability", "entailment")
LOWER = {"houlsby": 5e-4, "full": 5e-5}  # learning rates of the experiment `rates`
SEEDS = dict.fromkeys(SMALL, (0, 1, 2))  # where chance weighs most; one seed elsewhere


class Way(NamedTuple):
    """One recipe for all tasks: what `rootstock train` starts from, and what differs from that."""

    start: str  # a row of `service.training.recipe.RECIPES`
    epochs: int | None = None
    options: tuple[str, ...] = ()
    rate: float | None = None
    rows: int | None = None  # of the training file, drawn once; None: all

    @property
    def recipe(self) -> Recipe:
        row = RECIPES[self.start]
        return replace(row, epochs=self.epochs or row.epochs, learning_rate=self.rate or row.learning_rate)

    @property
    def arguments(self) -> tuple[str, ...]:
        method = ("head", "--norms") if self.start == "norms" else (self.start,)
        epochs = ("--epochs", str(self.epochs)) if self.epochs else ()
        rate = ("--learning-rate", f"{self.rate:g}") if self.rate else ()
        return ("--method", *method, *epochs, *rate, *self.options)

    @property
    def settings(self) -> Facts:
        """The recipe as JSON has it. What is off is left out, so that a new switch makes no old training another."""
        used = {name: value for name, value in asdict(self.recipe).items() if value and name != "seed"}
        return {name: value if isinstance(value, int | float) else str(value) for name, value in used.items()}


EPOCHS = 8  # what adapters need on these data; methods otherwise run as long as they do by default
METHODS = ("pfeiffer", "parallel", "lora", "prefix")  # besides houlsby
FEW = "few-"  # how a way's name begins that has a part of the rows
WAYS = {
    "houlsby": Way("houlsby", EPOCHS),
    "full": Way("full"),
    "head": Way("head"),
    "houlsby-lower": Way("houlsby", EPOCHS, rate=LOWER["houlsby"]),
    "full-lower": Way("full", rate=LOWER["full"]),
}
_OF_FEW_ROWS = {
    **{method: Way(method, EPOCHS) for method in ("houlsby", *METHODS, "norms")},
    "full": Way("full"),
    **{f"size-{size}": Way("houlsby", EPOCHS, ("--bottleneck", str(size))) for size in SIZES},
    **{
        f"top-{k}": Way("houlsby", EPOCHS, tuple(part for i in range(6 - k, 6) for part in ("--layer", str(i))))
        for k in TOPS
    },
    **{f"scale-1e{power}": Way("houlsby", EPOCHS, ("--init-scale", f"1e{power}")) for power in SCALES},
}
WAYS |= {FEW + name: way._replace(rows=1000) for name, way in _OF_FEW_ROWS.items()}
SHORT = ("question-type", "stance")


def _few(*names: str) -> tuple[str, ...]:
    return tuple(FEW + name for name in names)


EXPERIMENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # name → (recipes, tasks)
    "main": (("houlsby", "full", "head"), tuple(dataset.task for dataset in DATASETS)),
    "rates": (("houlsby-lower", "full-lower"), BEHIND),
    "sizes": (
        _few("houlsby", "full", "norms", *(f"size-{size}" for size in SIZES), *(f"top-{k}" for k in TOPS)),
        SHORT,
    ),
    "methods": (_few(*METHODS), SHORT),
    "scales": (_few(*(f"scale-1e{power}" for power in SCALES)), ("question-type",)),
}
# What the trade-off's picture draws as one line: name → recipes, from few trained parameters to many.
LINES = {
    "adapters, by size": _few(*(f"size-{size}" for size in SIZES if size < 64), "houlsby", "size-96"),
    "adapters of size 64 in the top layers": _few(*(f"top-{k}" for k in TOPS), "houlsby"),
    "LayerNorms alone": _few("norms"),
    "full fine-tuning": _few("full"),
}


class Run(NamedTuple):
    dataset: DataSet
    recipe: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.dataset.task}-{self.recipe}-{self.seed}"

    @property
    def report(self) -> Path:
        return REPORTS / f"{self.name}.json"


def runs(only: Sequence[str] = (), among: Sequence[str] = ()) -> Iterator[Run]:
    """Every training of the experiments, each once, in their order."""
    known = {dataset.task: dataset for dataset in DATASETS}
    told = set()
    for experiment, seed in product(only or EXPERIMENTS, range(3)):
        recipes, tasks = EXPERIMENTS[experiment]
        for recipe, task in product(recipes, tasks):
            run = Run(known[task], recipe, seed)
            seeds = SEEDS.get(task, (0,)) if experiment in ("main", "rates") else (0,)
            if seed in seeds and run.name not in told and (not among or recipe in among):
                told.add(run.name)
                yield run


def facts(run: Run, data: Path) -> Facts:
    """What decides what a training comes to, as its report keeps it."""
    dataset, way = run.dataset, WAYS[run.recipe]
    arguments = [
        "--task", dataset.task, "--kind", dataset.kind, "--metric", dataset.metric, *way.arguments,
        "--max-length", str(dataset.max_length), "--seed", str(run.seed), "--threads", "1",
    ]  # fmt: skip
    hashes = {part: sha256((data / dataset.task / f"{part}.jsonl").read_bytes()).hexdigest() for part in PARTS}
    told = {"arguments": arguments, "recipe": way.settings, "data": hashes}
    return {**told, "rows": way.rows} if way.rows else told


def read_json(path: Path) -> Facts | None:
    """None where there is no such file, or only half of it."""
    try:
        found: Facts = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found


def write_json(path: Path, facts: Facts) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    os.replace(beside, path)


def train(run: Run, data: Path, work: Path) -> bool:
    """Whether there is a report of this very training in the end."""
    wanted, found = facts(run, data), read_json(run.report)
    if found is not None and found.get("run") == wanted:
        return True
    if run.report.exists():
        print(f"{run.name}: trained anew, for its report {_difference(found, wanted)}", flush=True)
    dataset, folder, out = run.dataset, data / run.dataset.task, work / run.name
    out.mkdir(parents=True, exist_ok=True)
    begun, report = out / "run.json", out / "report.json"
    resume = ("--resume",) if read_json(begun) == wanted else ()  # otherwise what lies there is of another training
    write_json(begun, wanted)
    rows, some = folder / "train.jsonl", WAYS[run.recipe].rows
    if some:
        rows = _drawn(rows, some, out / "train.jsonl")
    precision = str(WAYS[run.recipe].recipe.dtype).removeprefix("torch.")  # also where it has to be emulated
    command = [
        sys.executable, "-m", "service.cli", "train", str(rows), *wanted["arguments"], "--dtype", precision,
        "--validation", str(folder / "validation.jsonl"), "--test", str(folder / "test.jsonl"),
        "--golden", str(HERE / "golden" / f"{dataset.task}.jsonl"),
        "--source", dataset.source, "--licence", dataset.licence, "--description", dataset.description,
        *resume, "--out", str(out), "--report", str(report),
    ]  # fmt: skip
    with (out / "log").open("w") as log:
        code = subprocess.run(command, stdout=log, stderr=log).returncode
    measured = read_json(report) if code == 0 else None
    if measured is None:
        print(f"{run.name}: failed, see {out / 'log'}", flush=True)
        return False
    for part in measured["measured"].values():
        del part["confusion"], part["by_label"]  # hundreds of thousands of numbers where labels are many
    write_json(run.report, {**measured, "run": wanted})
    print(f"{run.name}: {measured['metric']} {measured['test']:.4f} in {measured['seconds']:.0f} s", flush=True)
    return True


def _drawn(file: Path, rows: int, to: Path) -> Path:
    """So many of a file's lines, the same each time."""
    to.write_text("".join(Random(0).sample(file.read_text(encoding="utf-8").splitlines(keepends=True), rows)))
    return to


def _difference(found: Facts | None, wanted: Facts) -> str:
    if found is None:
        return "is not readable"
    run = found.get("run")
    if run is None:
        return "does not say what it was trained with"
    return f"is of other {' and '.join(name for name in wanted if run.get(name) != wanted[name])}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once, one thread each")
    parser.add_argument("--only", nargs="*", choices=list(EXPERIMENTS), default=[])
    parser.add_argument("--recipes", nargs="*", choices=list(WAYS), default=[])
    options = parser.parse_args()
    planned = list(runs(options.only, options.recipes))
    with ThreadPoolExecutor(options.jobs) as pool:
        done = list(pool.map(lambda run: train(run, options.data, options.work), planned))
    failed = [run.name for run, fine in zip(planned, done, strict=True) if not fine]
    if failed:
        sys.exit(f"{len(failed)} of {len(planned)} trainings failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
