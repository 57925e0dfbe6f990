"""How good the shipped adapters are, beside full fine-tuning and the head alone, on the same test files.

    python benchmarks/quality.py ship    --work WORK
    python benchmarks/quality.py measure --data PREPARED

PREPARED is what `benchmarks/data_sets.py` wrote, WORK what `benchmarks/reproduce.py` did. `ship` copies each task's
adapter to `adapters_store/`: of several seeds the best on validation. `measure` writes
`benchmarks/results/quality.json`. Adapters, full fine-tuning and the head are compared by the same thing: what the
trainer measured on the test file, the mean over seeds. What is shipped is one of these seeds, so its figure stands
apart: `measure` serves the store, and asks `POST /predict/{task}` for every test input.
"""

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from data_sets import DATASETS, DataSet
from reproduce_results import Results, adapter_file
from service.cli.training import served
from service.client import Client
from service.training.evaluate import evaluate
from service.training.measure import Measured
from serving import running_service

METHODS = ("houlsby", "full", "head")
COLUMNS = {
    "houlsby": "adapter",
    "full": "full fine-tuning",
    "head": "head only",
    "shipped": "shipped file, over HTTP",
}
STORE = Path(__file__).parents[1] / "adapters_store"
RESULT = Path(__file__).parent / "results" / "quality.json"
Row = Mapping[str, Any]


def ship(work: Path) -> None:
    results = Results.read(RESULT.parent)
    for dataset in DATASETS:
        found = results.runs(dataset.task, "houlsby")
        if not found:
            print(f"{dataset.task}: not trained yet")
            continue
        best = max(found, key=lambda report: report["validation"])
        file = adapter_file(work, best)
        if file is None:
            raise SystemExit(1)
        shutil.copyfile(file, STORE / file.name)
        print(f"{dataset.task}: {file.parent.name}, {file.stat().st_size:,} bytes")


def measure(data: Path) -> None:
    results, rows = Results.read(RESULT.parent), {}
    with TemporaryDirectory() as name:
        store = Path(name) / "store"
        shutil.copytree(STORE, store)  # the service leaves its lock and its states where it serves
        with running_service(store) as service, Client(service.url) as client:
            served_tasks = {task["task"] for task in client.tasks()}
            for dataset in DATASETS:
                if dataset.task in served_tasks:
                    rows[dataset.task] = row(results, dataset.task, _score(client, dataset, data))
    result = summary(rows)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(table(result))


def _score(client: Client, dataset: DataSet, data: Path) -> Measured:
    """The task measured on its test file, over HTTP."""
    manifest, ask = served(client, dataset.task)
    return evaluate(manifest, data / dataset.task / "test.jsonl", ask, metric=dataset.metric)


def row(results: Results, task: str, shipped: Measured) -> Row:
    """A task's figures: the mean over seeds for what was trained, and the shipped file's own."""
    scores = {method: results.score(task, method) for method in METHODS}
    return {
        "metric": shipped.metric,
        "test_rows": shipped.rows,
        **{method: score.mean / 100 for method, score in scores.items() if score},
        "seeds": {method: len(results.runs(task, method)) for method in METHODS},
        "shipped": shipped.value,
        "trained_share": results.share(task, "houlsby"),
        "calibration_error": shipped.calibration_error,
    }


def summary(rows: Mapping[str, Row]) -> dict[str, Any]:
    """Means over the tasks where every method was trained."""
    whole = [row for row in rows.values() if all(method in row for method in METHODS)]
    means = {column: mean(row[column] for row in whole) for column in COLUMNS} if whole else {}
    return {"tasks": rows, "mean": means, "distance": means["houlsby"] - means["full"] if whole else None}


def table(result: Mapping[str, Any]) -> str:
    lines = [
        f"| task | metric | test rows | {' | '.join(COLUMNS.values())} | trained, of w |",
        f"|---|---|---:|{'---:|' * len(COLUMNS)}---:|",
    ]
    for task, row in result["tasks"].items():
        share = f"{row['trained_share']:.1%}" if row["trained_share"] else ""
        lines.append(f"| {task} | {row['metric']} | {row['test_rows']:,} | {_figures(row)} | {share} |")
    if result["mean"]:
        lines.append(f"| mean | | | {_figures(result['mean'])} | |")
    return "\n".join(lines)


def _figures(row: Row) -> str:
    return " | ".join(f"{100 * row[column]:.1f}" if column in row else "" for column in COLUMNS)


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
