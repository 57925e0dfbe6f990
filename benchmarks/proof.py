"""How far answers lie from golden ones in each precision: what the tolerances of `service/registry/proof.py` come from.

    python benchmarks/proof.py --data PREPARED --store FOLDER [--inputs 150]

PREPARED is what `benchmarks/data_sets.py` wrote, FOLDER holds trained adapters named after its tasks. Each answers the
first inputs of its test file as training does, which gives golden outputs, and as the service does in every precision.
Writes `benchmarks/results/proof.json`: by precision, quantiles over all inputs, and each task's farthest.
"""

import argparse
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from service.adapters.file import read_header
from service.engine.arranging import load_resident
from service.engine.base_model import BaseModel, load_base
from service.engine.engine import Engine, Row
from service.errors import BadBase
from service.tasks import Floats, Given, kind_of, read_for

RESULT = Path(__file__).parent / "results" / "proof.json"
PRECISIONS = ("float32", "bfloat16", "int8", "int16")  # those that there are here
ROWS = 64  # in a batch


def inputs(path: Path, most: int) -> list[Given]:
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, most)]
    return [
        Given(row["question"], row["context"]) if "question" in row else Given(row["text"], row.get("text_pair"))
        for row in rows
    ]


def outputs(base: BaseModel, data: bytes, given: list[Given]) -> list[Floats]:
    """As golden examples hold them, by input."""
    resident = load_resident(base, data, version=1)
    readings = read_for(resident.manifest, base.tokenizer, given)
    rows = [Row(row, resident) for reading in readings for row in reading.rows]
    raw = iter([one for start in range(0, len(rows), ROWS) for one in Engine(base).run(rows[start : start + ROWS])])
    return [
        resident.kind.decode(resident.manifest, reading, [next(raw) for _ in reading.rows]).outputs
        for reading in readings
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--inputs", type=int, default=150)
    options = parser.parse_args()
    bases = {}
    for precision in PRECISIONS:
        try:
            bases[precision] = load_base(dtype=precision, serving=True)
        except BadBase as error:
            print(f"{precision}: {error}")
    plain = load_base()  # as training has it
    found: dict[str, dict[str, list[float]]] = {precision: {} for precision in bases}
    for path in sorted(options.store.glob("*.safetensors")):
        data = path.read_bytes()
        manifest = read_header(data).manifest
        given = inputs(options.data / manifest.task / "test.jsonl", options.inputs)
        golden = outputs(plain, data, given)
        for precision, base in bases.items():
            kind, served = kind_of(manifest), outputs(base, data, given)
            off = [kind.distance(manifest, one, other) for one, other in zip(served, golden, strict=True)]
            found[precision][manifest.task] = off
            print(f"{manifest.task}, {precision}: {max(off):.4f}", flush=True)
    result: dict[str, Any] = {}
    for precision, tasks in found.items():
        every = np.concatenate(list(tasks.values()))
        result[precision] = {
            "inputs": len(every),
            "quantiles": {str(share): round(float(np.quantile(every, share)), 5) for share in (0.5, 0.9, 0.99, 1)},
            "farthest_by_task": {task: round(max(off), 5) for task, off in tasks.items()},
        }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
