"""How good the shipped adapters are, beside full fine-tuning and the head alone, on the same test files.

    python benchmarks/quality.py ship    --work WORK
    python benchmarks/quality.py measure --data PREPARED

PREPARED is what `benchmarks/datasets.py` wrote, WORK what `benchmarks/reproduce.py` did. `ship` copies each task's
adapter to `adapters_store/`: of several seeds the best on validation. `measure` serves that store, asks `POST
/predict/{task}` for every test input, and writes `benchmarks/results/quality.json`. Fine-tuned models are not served;
theirs are the figures that the trainer measured on the same test files, the mean over seeds.
"""

import argparse
import json
import shutil
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from datasets import DATASETS, DataSet
from reproduce import REPORTS
from service.cli.training import served
from service.client import Client
from service.training.evaluate import evaluate
from service.training.measure import Measured
from serving import running_service

STORE = Path(__file__).parents[1] / "adapters_store"
RESULT = Path(__file__).parent / "results" / "quality.json"


def _reports(task: str, recipe: str) -> list[dict[str, Any]]:
    """Every seed's."""
    return [json.loads(path.read_text()) for path in sorted(REPORTS.glob(f"{task}-{recipe}-[0-9].json"))]


def ship(work: Path) -> None:
    for dataset in DATASETS:
        found = _reports(dataset.task, "houlsby")
        if not found:
            print(f"{dataset.task}: not trained yet")
            continue
        seed = max(found, key=lambda report: report["validation"])["recipe"]["seed"]
        file = work / f"{dataset.task}-houlsby-{seed}" / f"{dataset.task}-1.safetensors"
        shutil.copyfile(file, STORE / file.name)
        print(f"{dataset.task}: seed {seed}, {file.stat().st_size:,} bytes")


def measure(data: Path) -> None:
    rows: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as name:
        store = Path(name) / "store"
        shutil.copytree(STORE, store)  # the service leaves its lock and its states where it serves
        with running_service(store) as service, Client(service.url) as client:
            served_tasks = {task["task"] for task in client.tasks()}
            for dataset in DATASETS:
                if dataset.task in served_tasks:
                    rows[dataset.task] = _row(dataset, _score(client, dataset, data))
    _write(rows)


def _score(client: Client, dataset: DataSet, data: Path) -> Measured:
    """The task measured on its test file, over HTTP."""
    manifest, ask = served(client, dataset.task)
    return evaluate(manifest, data / dataset.task / "test.jsonl", ask, metric=dataset.metric)


def _row(dataset: DataSet, measured: Measured) -> dict[str, Any]:
    reports = {recipe: _reports(dataset.task, recipe) for recipe in ("houlsby", "full", "head")}
    others = {
        recipe: mean(report["test"] for report in found)
        for recipe, found in reports.items()
        if found and recipe != "houlsby"
    }
    return {
        "metric": measured.metric,
        "test_rows": measured.rows,
        "houlsby": measured.value,
        **others,
        "trained_share": reports["houlsby"][0]["share_of_base"] if reports["houlsby"] else None,
        "calibration_error": measured.calibration_error,
    }


def _write(rows: dict[str, dict[str, Any]]) -> None:
    methods = ("houlsby", "full", "head")
    whole = [row for row in rows.values() if all(method in row for method in methods)]
    means = {method: mean(row[method] for row in whole) for method in methods} if whole else {}
    result = {"tasks": rows, "mean": means, "distance": means["houlsby"] - means["full"] if whole else None}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print("| task | metric | test rows | adapter | full fine-tuning | head only | trained, of w |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for task, row in rows.items():
        figures = " | ".join(f"{100 * row[method]:.1f}" if method in row else "" for method in methods)
        share = f"{row['trained_share']:.1%}" if row["trained_share"] else ""
        print(f"| {task} | {row['metric']} | {row['test_rows']:,} | {figures} | {share} |")
    if whole:
        print(f"| mean | | | {' | '.join(f'{100 * means[method]:.1f}' for method in methods)} | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["ship", "measure"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    if options.step == "ship":
        ship(_given(parser, options.work, "--work"))
    else:
        measure(_given(parser, options.data, "--data"))


def _given(parser: argparse.ArgumentParser, value: Path | None, name: str) -> Path:
    if value is None:
        parser.error(f"this step needs {name}")
    return value


if __name__ == "__main__":
    main()
