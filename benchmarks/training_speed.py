"""How fast an adapter trains, beside the `adapters` library's own loop: same base, task, rows, size, epochs and rate.

    python benchmarks/training_speed.py --data PREPARED --peers FOLDER [--task sentiment] [--rows 2000] [--rounds 3]

PREPARED is what `benchmarks/datasets.py` wrote. The library gets an environment of its own in FOLDER, made at the
first run, and runs three times: as it comes, with its rows grouped by length, and in bfloat16 besides. Full fine-tuning
by our own trainer runs too. Each round runs all of them in turn, each in a fresh process with all cores; only the
training loop is timed. Accuracies are of the last epoch. Writes `benchmarks/results/training_speed.json`.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from service.adapters.methods import AnyMethod, Head, Houlsby
from service.engine.base_model import DEFAULT_BASE, load_base, locate
from service.training.recipe import RECIPES
from service.training.run import Plan, read_data, run
from service.training.trainer import Progress

HERE = Path(__file__).parent
RESULT = HERE / "results" / "training_speed.json"
PEER = HERE / "peers" / "train_with_adapters.py"
PACKAGES = ["torch==2.13.0", "adapters==1.3.0", "accelerate"]
OURS = {"rootstock": "houlsby", "rootstock, full fine-tuning": "full"}  # name → recipe
VARIANTS: dict[str, tuple[str, ...]] = {  # name → options of the library's trainer
    "adapters": (),
    "adapters, grouped by length": ("group_by_length",),
    "adapters, grouped by length, bfloat16": ("group_by_length", "bf16"),
}
BOTTLENECK, RATE, MAX_LENGTH = 64, 1e-3, 96


def ours(way: str, train: Path, test: Path, epochs: int, seed: int) -> dict[str, Any]:
    """One training in this process; timed from the first step's end to the last one's, so that loading is left out."""
    recipe = replace(RECIPES[way], epochs=epochs, seed=seed)
    method: AnyMethod = Head()
    if way == "houlsby":
        recipe, method = replace(recipe, learning_rate=RATE), Houlsby(bottleneck=BOTTLENECK)
    plan = Plan("speed", method, recipe, train, validation=test, max_length=MAX_LENGTH)
    seconds: list[float] = []
    last = perf_counter()

    def watch(number: int, runs: int, progress: Progress) -> None:
        nonlocal last
        now = perf_counter()
        if progress.value is None:  # a step; what comes between epochs is measuring
            seconds.append(now - last)
        last = now

    outcome = run(load_base(), plan, read_data(plan), watch)
    steps = seconds[1:]
    return {"examples_per_second": recipe.batch_size * len(steps) / sum(steps), "accuracy": outcome.report["curve"][-1]}


def peer(folder: Path, train: Path, test: Path, epochs: int, seed: int, options: Sequence[str]) -> dict[str, Any]:
    arguments = [str(train), str(test), str(epochs), str(BOTTLENECK), str(RATE), str(MAX_LENGTH), str(seed), *options]
    return _json([str(_environment(folder)), str(PEER), locate(DEFAULT_BASE), *arguments])


def _environment(folder: Path) -> Path:
    python = folder / "adapters" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / "adapters")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


def _json(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def compare(data: Path, peers: Path, task: str, rows: int, epochs: int, rounds: int) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in (*OURS, *VARIANTS)}
    with TemporaryDirectory() as folder:
        train, test = Path(folder) / "train.jsonl", data / task / "test.jsonl"
        lines = (data / task / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        train.write_text("".join(lines[:rows]), encoding="utf-8")
        for seed in range(rounds):
            for name, way in OURS.items():
                arguments = [way, str(train), str(test), str(epochs), str(seed)]
                found[name].append(_json([sys.executable, __file__, "--ours", *arguments]))
            for name, options in VARIANTS.items():
                found[name].append(peer(peers, train, test, epochs, seed, options))
            print(json.dumps({name: runs[-1] for name, runs in found.items()}), flush=True)
    speed = {name: [run["examples_per_second"] for run in runs] for name, runs in found.items()}
    return {
        "task": task,
        "rows": min(rows, len(lines)),
        "epochs": epochs,
        "median": {name: median(values) for name, values in speed.items()},
        "accuracy": {name: median(run["accuracy"] for run in runs) for name, runs in found.items()},
        "times_as_fast": {
            name: median(a / b for a, b in zip(speed["rootstock"], values, strict=True))
            for name, values in speed.items()
            if name != "rootstock"
        },
        "rounds": found,
    }


def main() -> None:
    if sys.argv[1:2] == ["--ours"]:
        way, train, test, epochs, seed = sys.argv[2:]
        print(json.dumps(ours(way, Path(train), Path(test), int(epochs), int(seed))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--task", default="sentiment")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    result = compare(options.data, options.peers, options.task, options.rows, options.epochs, options.rounds)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: result[name] for name in ("median", "accuracy", "times_as_fast")}, indent=2))


if __name__ == "__main__":
    main()
