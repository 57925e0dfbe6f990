"""What each precision costs: every shipped adapter on its test file, in float32, bfloat16 and integers.

    python benchmarks/precision.py --data PREPARED [--store FOLDER] [--only TASK …]

PREPARED is what `benchmarks/data_sets.py` wrote. Adapters are loaded as the service loads them and asked through the
engine, so only the arithmetic differs. Writes `benchmarks/results/precision-KIND.json`, by the kind of processor
(`engine_results.KINDS`): each task's metric by precision, and how far the others lie from float32, in points.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from data_sets import DATASETS, DataSet
from engine_results import kind
from service.engine.arranging import load_resident
from service.engine.base_model import load_base
from service.errors import BadBase
from service.training.evaluate import asking, evaluate

HERE = Path(__file__).parent
RESULTS = HERE / "results"
STORE = HERE.parent / "adapters_store"
REFERENCE = "float32"
PRECISIONS = (REFERENCE, "bfloat16", "int8", "int16")  # those that there are here


def measured(files: Mapping[str, Path], precision: str, data: Path) -> dict[str, float]:
    """Each task's metric on its test file."""
    base = load_base(dtype=precision, serving=True)
    known = {dataset.task: dataset for dataset in DATASETS}
    return {task: _score(known[task], file, data, base) for task, file in files.items()}


def _score(dataset: DataSet, file: Path, data: Path, base: Any) -> float:
    resident = load_resident(base, file.read_bytes(), version=1)
    test = data / dataset.task / "test.jsonl"
    found = evaluate(resident.manifest, test, asking(base, resident), metric=dataset.metric).value
    print(f"{dataset.task}, {base.precision}: {100 * found:.2f}", flush=True)
    return found


def summary(found: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """By precision: the metrics, and the points lost against float32: by task, their mean, the most."""
    exact = found[REFERENCE]
    lost = {
        precision: {task: 100 * (exact[task] - value) for task, value in values.items()}
        for precision, values in found.items()
        if precision != REFERENCE
    }
    return {
        "metrics": found,
        "points_lost": lost,
        "mean_lost": {precision: mean(tasks.values()) for precision, tasks in lost.items()},
        "most_lost": {precision: max(tasks.values()) for precision, tasks in lost.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    tasks = options.only or [dataset.task for dataset in DATASETS]
    paths = {task: options.store / f"{task}-1.safetensors" for task in tasks}
    files = {task: path for task, path in paths.items() if path.exists()}
    found = {}
    for precision in PRECISIONS:
        try:
            found[precision] = measured(files, precision, options.data)
        except BadBase as error:
            print(f"{precision}: {error}")
    result = summary(found)
    (RESULTS / f"precision-{kind()}.json").write_text(json.dumps(result, indent=2) + "\n")
    for precision, lost in result["mean_lost"].items():
        print(f"{precision}: {lost:+.2f} points lost on average, {result['most_lost'][precision]:+.2f} at most")


if __name__ == "__main__":
    main()
