"""The adapter paper's experiment on our own ground: what tuning reaches, and what it costs, over many tasks.

    python benchmarks/reproduce.py --data PREPARED --work WORK [--jobs 2] [--only NAME …] [--recipes NAME …]

PREPARED is what `benchmarks/datasets.py` wrote. Each training is one call of `rootstock train`, and leaves one report
in `benchmarks/results/reproduce/`; what has a report is not trained again, and what was cut goes on from its last
epoch.

Experiments (Houlsby et al. 2019, the section they answer to):

    main       adapters, full fine-tuning and the head alone, on every task              3.2, 3.3; tables 1 and 2
    sizes      bottlenecks from 2 to 96, the LayerNorms alone, the top layers alone      3.4; figures 3 and 4
    methods    the other ways of tuning, at their usual sizes
    scales     the start values' deviation, from 1e-7 to 1                               3.6; figure 6, right
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

from datasets import DATASETS, DataSet

HERE = Path(__file__).parent
REPORTS = HERE / "results" / "reproduce"
SMALL = ("entailment", "paraphrase", "emotion", "stance", "question-type", "spam", "entities", "topic")
SIZES = (2, 8, 32, 96)  # besides houlsby's own 64
TOPS = (1, 2, 3, 4, 5)  # adapters in so many layers, from the last one down
SCALES = range(-7, 1)
SEEDS = dict.fromkeys(SMALL, (0, 1, 2))  # where chance weighs most; one seed elsewhere

# One recipe a method for all tasks. The bottlenecks' rate and averaging come from a few trials of one seed on emotion
# and stance, judged by validation; fine-tuning's rate was tried against its double there, the rest was not searched.
BOTTLENECK = ("--epochs", "8", "--learning-rate", "2e-3")
HOULSBY = ("--method", "houlsby", *BOTTLENECK)
RECIPES: dict[str, tuple[str, ...]] = {
    "houlsby": HOULSBY,
    "full": ("--method", "full", "--epochs", "4", "--learning-rate", "1e-4"),
    "head": ("--method", "head"),
    "pfeiffer": ("--method", "pfeiffer", *BOTTLENECK),
    "parallel": ("--method", "parallel", *BOTTLENECK),
    "lora": ("--method", "lora", "--epochs", "8", "--learning-rate", "2e-3"),
    "prefix": ("--method", "prefix", "--epochs", "8", "--learning-rate", "3e-3"),
    "norms": ("--method", "head", "--norms", "--epochs", "8"),
    **{f"size-{size}": (*HOULSBY, "--bottleneck", str(size)) for size in SIZES},
    **{f"top-{k}": (*HOULSBY, *(part for layer in range(6 - k, 6) for part in ("--layer", str(layer)))) for k in TOPS},
    **{f"scale-1e{power}": (*HOULSBY, "--init-scale", f"1e{power}") for power in SCALES},
}
SHORT = ("acceptability", "emotion", "question-type")
EXPERIMENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # name → (recipes, tasks)
    "main": (("houlsby", "full", "head"), tuple(dataset.task for dataset in DATASETS)),
    "sizes": ((*(f"size-{size}" for size in SIZES), "norms", *(f"top-{k}" for k in TOPS)), SHORT),
    "methods": (("pfeiffer", "parallel", "lora", "prefix"), SHORT),
    "scales": (tuple(f"scale-1e{power}" for power in SCALES), ("question-type",)),
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
            seeds = SEEDS.get(task, (0,)) if experiment == "main" else (0,)
            if seed in seeds and run.name not in told and (not among or recipe in among):
                told.add(run.name)
                yield run


def train(run: Run, data: Path, work: Path) -> None:
    if run.report.exists():
        return
    dataset, folder, out = run.dataset, data / run.dataset.task, work / run.name
    command = [
        sys.executable, "-m", "service.cli", "train", str(folder / "train.jsonl"),
        "--task", dataset.task, "--kind", dataset.kind, "--metric", dataset.metric, *RECIPES[run.recipe],
        "--validation", str(folder / "validation.jsonl"), "--test", str(folder / "test.jsonl"),
        "--max-length", str(dataset.max_length), "--golden", str(HERE / "golden" / f"{dataset.task}.jsonl"),
        "--source", dataset.source, "--licence", dataset.licence, "--description", dataset.description,
        "--seed", str(run.seed), "--threads", "1", "--resume", "--out", str(out), "--report", str(run.report),
    ]  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log").open("w") as log:
        code = subprocess.run(command, stdout=log, stderr=log).returncode
    if code:
        print(f"{run.name}: failed, see {out / 'log'}", flush=True)
        return
    report = json.loads(run.report.read_text())
    for measured in report["measured"].values():
        del measured["confusion"], measured["by_label"]  # hundreds of thousands of numbers where labels are many
    run.report.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{run.name}: {report['metric']} {report['test']:.4f} in {report['seconds']:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once, one thread each")
    parser.add_argument("--only", nargs="*", choices=list(EXPERIMENTS), default=[])
    parser.add_argument("--recipes", nargs="*", choices=list(RECIPES), default=[])
    options = parser.parse_args()
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda run: train(run, options.data, options.work), runs(options.only, options.recipes)))


if __name__ == "__main__":
    main()
