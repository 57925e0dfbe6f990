"""How fast an adapter trains, beside the `adapters` library's own loop: same base, task, rows, size, epochs and rate.

    python benchmarks/training_speed.py --data PREPARED --peers FOLDER [--task sentiment] [--rows 3000] [--epochs 4]
                                        [--rounds 3]

PREPARED is what `benchmarks/data_sets.py` wrote. The library gets an environment of its own in FOLDER, made at the
first run, and runs three times: as it comes, with its rows grouped by length, and in bfloat16 besides, but that only
where the processor multiplies in it. Full fine-tuning
by our own trainer runs too. Each round runs all of them in turn with a seed of its own, each in a fresh process with
all cores. Writes `benchmarks/results/training_speed-KIND.json`, by the kind of processor (`engine_results.KINDS`).

Timed is the training loop, from the first batch to the last, of a second training in the process; the first, of two
batches, is there to warm up. Reading, tokenising, loading the base and measuring are left out on both sides. Rows are
real ones: a last, smaller batch counts as what it is. Accuracies are of the last epoch, on the test file; for each side
the mean and the deviation over the rounds.

What differs on purpose, each side being as it comes:

    ours       trains the LayerNorms too, by its recipe but for the rate (averaged weights, Adam's β₂, weight decay),
               computes in the precision that `rootstock train` picks, packs rows of equal length without padding; a
               linear head on the tokens' mean
    theirs     trains the bottlenecks alone (Houlsby's, of the same size), in float32, pads each batch to its longest
               row; a head of two layers on the first token; no weight decay
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from engine_results import kind
from service.adapters.manifest import HeadSettings, Manifest, TokenizerSettings
from service.adapters.methods import AnyMethod, Head, Houlsby
from service.engine.base_model import DEFAULT_BASE, load_base, locate
from service.engine.layout import multiplies_bfloat16
from service.training.data import read_examples
from service.training.precision import training_dtype
from service.training.recipe import RECIPES
from service.training.sets import prepare
from service.training.trainer import Progress, train

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PEER = HERE / "peers" / "train_with_adapters.py"
METRIC = "accuracy"
PACKAGES = ["torch==2.13.0", "adapters==1.3.0", "accelerate"]
OURS = {"rootstock": "houlsby", "rootstock, full fine-tuning": "full"}  # name → recipe
VARIANTS: dict[str, tuple[str, ...]] = {  # name → options of the library's trainer
    "adapters": (),
    "adapters, grouped by length": ("group_by_length",),
    "adapters, grouped by length, bfloat16": ("group_by_length", "bf16"),
}
BOTTLENECK, RATE, MAX_LENGTH = 64, 1e-3, 96
WARM_UP = 64  # rows


class Clock:
    """Adds up the steps, and leaves out the measuring between epochs. What is built before the first step counts."""

    def __init__(self) -> None:
        self.seconds, self._last = 0.0, perf_counter()

    def watch(self, progress: Progress) -> None:
        now = perf_counter()
        if progress.value is None:
            self.seconds += now - self._last
        self._last = now


def ours(way: str, train_file: Path, test_file: Path, epochs: int, seed: int) -> dict[str, Any]:
    """One training in this process, after a short one."""
    base, training, test = load_base(), read_examples(train_file), read_examples(test_file)
    dtype = training_dtype("auto", base.weights, RECIPES[way].full)
    recipe = replace(RECIPES[way], epochs=epochs, seed=seed, dtype=dtype)
    method: AnyMethod = Head()
    if way == "houlsby":
        recipe, method = replace(recipe, learning_rate=RATE), Houlsby(bottleneck=BOTTLENECK)
    manifest = Manifest(
        task="speed",
        kind="classification",
        method=method,
        labels=sorted({str(example.label) for example in training}),
        base=base.identity,
        tokenizer=TokenizerSettings(max_length=MAX_LENGTH),
        head=HeadSettings(pair=training[0].text_pair is not None),
    )
    few, all_of_them, measured_on = (prepare(base, manifest, part) for part in (training[:WARM_UP], training, test))
    train(base, manifest, few, few, replace(recipe, epochs=1), METRIC)
    clock = Clock()
    trained = train(base, manifest, all_of_them, measured_on, recipe, METRIC, clock.watch)
    return {
        "seconds": clock.seconds,
        "examples_per_second": len(training) * epochs / clock.seconds,
        "accuracy": trained.curve[-1],
    }


def peer(folder: Path, train: Path, test: Path, epochs: int, seed: int, options: Sequence[str]) -> dict[str, Any]:
    arguments = [
        str(train),
        str(test),
        str(epochs),
        str(BOTTLENECK),
        str(RATE),
        str(MAX_LENGTH),
        str(seed),
        str(WARM_UP),
    ]
    return _json([str(_environment(folder)), str(PEER), locate(DEFAULT_BASE), *arguments, *options])


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
    theirs = {name: options for name, options in VARIANTS.items() if multiplies_bfloat16() or "bf16" not in options}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in (*OURS, *theirs)}
    with TemporaryDirectory() as folder:
        train_file, test_file = Path(folder) / "train.jsonl", data / task / "test.jsonl"
        lines = (data / task / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:rows]
        train_file.write_text("".join(lines), encoding="utf-8")
        for seed in range(rounds):
            for name, way in OURS.items():
                arguments = [way, str(train_file), str(test_file), str(epochs), str(seed)]
                found[name].append(_json([sys.executable, __file__, "--ours", *arguments]))
            for name, options in theirs.items():
                found[name].append(peer(peers, train_file, test_file, epochs, seed, options))
            print(json.dumps({name: runs[-1] for name, runs in found.items()}), flush=True)
    return {"task": task, "rows": len(lines), "epochs": epochs, **summary(found)}


def summary(rounds: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Each side over its rounds; `times_as_fast` is ours by theirs, round by round."""
    speed = {name: [run["examples_per_second"] for run in runs] for name, runs in rounds.items()}
    right = {name: [run["accuracy"] for run in runs] for name, runs in rounds.items()}
    return {
        "median": {name: median(values) for name, values in speed.items()},
        "accuracy": {name: mean(values) for name, values in right.items()},
        "accuracy_deviation": {name: stdev(values) if len(values) > 1 else None for name, values in right.items()},
        "times_as_fast": {
            name: median(a / b for a, b in zip(speed["rootstock"], values, strict=True))
            for name, values in speed.items()
            if name != "rootstock"
        },
        "rounds": rounds,
    }


def main() -> None:
    if sys.argv[1:2] == ["--ours"]:
        way, train_file, test_file, epochs, seed = sys.argv[2:]
        print(json.dumps(ours(way, Path(train_file), Path(test_file), int(epochs), int(seed))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--task", default="sentiment")
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    result = compare(options.data, options.peers, options.task, options.rows, options.epochs, options.rounds)
    (RESULTS / f"training_speed-{kind()}.json").write_text(json.dumps(result, indent=2) + "\n")
    shown = ("median", "accuracy", "accuracy_deviation", "times_as_fast")
    print(json.dumps({name: result[name] for name in shown}, indent=2))


if __name__ == "__main__":
    main()
