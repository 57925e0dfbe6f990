"""From a spreadsheet to answers: how long until an adapter trained on 1,000 short texts is served.

    python benchmarks/first_adapter.py --data PREPARED [--task sentiment] [--rows 1000] [--rounds 3]

PREPARED is what `benchmarks/data_sets.py` wrote. The clock runs from a CSV file and an empty store over `rootstock
train` with nothing but the task's name, `rootstock serve` and `rootstock push` to the first answer. How good and how
honest the answers are is measured afterwards, by `rootstock evaluate` on the service. Writes
`benchmarks/results/first_adapter.json`.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from service.client import Client
from serving import running_service

RESULT = Path(__file__).parent / "results" / "first_adapter.json"


def one_round(data: Path, task: str, rows: int) -> dict[str, Any]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        sheet, store = folder / "rows.csv", folder / "store"
        asked = _write_sheet(data / task / "train.jsonl", sheet, rows)
        store.mkdir()
        started = perf_counter()
        _rootstock("train", str(sheet), "--task", task, "--out", str(folder))
        trained = perf_counter()
        with running_service(store) as service:
            _rootstock("push", str(folder / f"{task}-1.safetensors"), "--url", service.url)
            with Client(service.url) as client:
                [answer] = client.predict(task, [asked])
            answered = perf_counter()
            facts = _rootstock("evaluate", task, str(data / task / "test.jsonl"), "--json", "--url", service.url)
    measured = json.loads(facts)
    return {
        "seconds": answered - started,
        "training_seconds": trained - started,
        "first_answer": answer["label"],
        measured["metric"]: measured["value"],
        "calibration_error": measured["calibration_error"],
    }


def _write_sheet(source: Path, sheet: Path, rows: int) -> str:
    """The first rows of a data set as CSV; returns the first text."""
    with source.open(encoding="utf-8") as lines, sheet.open("w", encoding="utf-8", newline="") as file:
        examples = [json.loads(line) for line, _ in zip(lines, range(rows), strict=False)]
        writer = csv.DictWriter(file, list(examples[0]))
        writer.writeheader()
        writer.writerows(examples)
    first: str = examples[0]["text"]
    return first


def _rootstock(*arguments: str) -> str:
    command = [sys.executable, "-m", "service.cli", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", default="sentiment")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds = []
    for _ in range(options.rounds):
        rounds.append(one_round(options.data, options.task, options.rows))
        print(json.dumps(rounds[-1]), flush=True)
    seconds = [one["seconds"] for one in rounds]
    result = {"task": options.task, "rows": options.rows, "median_seconds": median(seconds), "rounds": rounds}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"median {median(seconds):.0f} s")


if __name__ == "__main__":
    main()
