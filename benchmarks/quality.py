"""How good the shipped adapters are, beside full fine-tuning and the head alone, on the same data.

    python benchmarks/quality.py train   --data PREPARED --work WORK [--jobs 2]
    python benchmarks/quality.py measure --data PREPARED --work WORK

PREPARED is what `benchmarks/datasets.py` wrote. `train` calls `rootstock train` for every task and method, and goes
on where it was cut: a training whose report exists is done. `measure` serves the adapter files that came out, asks
`POST /predict/{task}` for every test input, and writes `benchmarks/results/quality.json`. Fine-tuned models are
not served, so theirs is the figure that the trainer measured on the same test file.
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from datasets import DATASETS as ALL
from datasets import DataSet
from service.cli.training import served
from service.client import Client
from service.training.data import read_examples
from service.training.evaluate import evaluate
from serving import running_service

HERE = Path(__file__).parent
SHIPPED = ("sentiment", "question-type", "banking-intent", "spam", "paraphrase", "similarity")
DATASETS = [dataset for dataset in ALL if dataset.task in SHIPPED]
RESULTS = HERE / "results"
# Cheap ones first; the same recipe for every task.
METHODS: dict[str, list[str]] = {
    "head": [],
    "houlsby": ["--epochs", "8", "--learning-rate", "1e-3"],
    "full": ["--epochs", "4", "--learning-rate", "1e-4"],
}


def train(data: Path, work: Path, jobs: int) -> None:
    runs = [(dataset, method) for method in METHODS for dataset in DATASETS]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda run: _train_one(run[0], run[1], data, work), runs))


def _train_one(dataset: DataSet, method: str, data: Path, work: Path) -> None:
    report = RESULTS / "training" / f"{dataset.task}-{method}.json"
    if report.exists():
        return
    folder = data / dataset.task
    command = [
        sys.executable, "-m", "service.cli", "train", str(folder / "train.jsonl"),
        "--task", dataset.task, "--kind", dataset.kind, "--method", method, *METHODS[method],
        "--validation", str(folder / "validation.jsonl"), "--test", str(folder / "test.jsonl"),
        "--max-length", str(dataset.max_length), "--golden", str(HERE / "golden" / f"{dataset.task}.jsonl"),
        "--source", dataset.source, "--licence", dataset.licence, "--description", dataset.description,
        "--threads", "1", "--out", str(work / method), "--report", str(report),
    ]  # fmt: skip
    log = work / f"{dataset.task}-{method}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        code = subprocess.run(command, stdout=output, stderr=output).returncode
    print(f"{dataset.task} {method}: {'done' if code == 0 else f'failed, see {log}'}", flush=True)


def measure(data: Path, work: Path) -> None:
    rows: dict[str, dict[str, Any]] = {dataset.task: {} for dataset in DATASETS}
    for method in ("houlsby", "head"):
        with running_service(work / method) as service, Client(service.url) as client:
            for dataset in DATASETS:
                rows[dataset.task][method] = _score(client, dataset, data)
    for dataset in DATASETS:
        row = rows[dataset.task]
        reports = {
            method: json.loads((RESULTS / "training" / f"{dataset.task}-{method}.json").read_text())
            for method in METHODS
        }
        row["full"] = reports["full"]["test"]
        row["metric"] = reports["full"]["metric"]
        row["test_rows"] = len(read_examples(data / dataset.task / "test.jsonl"))
        row["trained_share"] = reports["houlsby"]["share_of_base"]
    _write(rows)


def _score(client: Client, dataset: DataSet, data: Path) -> float:
    """The task's metric on its test file, over HTTP."""
    manifest, ask = served(client, dataset.task)
    return evaluate(manifest, data / dataset.task / "test.jsonl", ask, metric=dataset.metric).value


def _write(rows: dict[str, dict[str, Any]]) -> None:
    means = {method: sum(row[method] for row in rows.values()) / len(rows) for method in METHODS}
    result = {"tasks": rows, "mean": means, "distance": means["houlsby"] - means["full"]}
    (RESULTS / "quality.json").write_text(json.dumps(result, indent=2) + "\n")
    print("| task | metric | test rows | adapter | full fine-tuning | head only | trained, of w |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for task, row in rows.items():
        figures = " | ".join(f"{100 * row[method]:.1f}" for method in ("houlsby", "full", "head"))
        print(f"| {task} | {row['metric']} | {row['test_rows']:,} | {figures} | {row['trained_share']:.1%} |")
    print(f"| mean | | | {' | '.join(f'{100 * means[method]:.1f}' for method in ('houlsby', 'full', 'head'))} | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["train", "measure"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once, one thread each")
    options = parser.parse_args()
    if options.step == "train":
        train(options.data, options.work, options.jobs)
    else:
        measure(options.data, options.work)


if __name__ == "__main__":
    main()
