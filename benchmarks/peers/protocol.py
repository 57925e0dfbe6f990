"""How a contestant of `benchmarks/engine.py` is spoken to: JSON lines, asked on stdin and answered on stdout.

It runs in every contestant's own environment, so it imports nothing but numpy.

    → {"base": folder, "cache": folder, "threads": 2, "workloads": file, …}                 first, once
    ← {"versions": {package: version}, "facts": {…}}
    → {"way": name, "workload": name, "batches": 8, "vectors": false}                       any number of times
    ← {"seconds": [one for each batch], "checksum": sum of all outputs, "vectors": of the first batch, "facts": {…}}

The file has {name: batches}; a batch is a list of rows, a row a list of token ids. What fails is answered with
{"failed": why}. The end of stdin ends the contestant.
"""

import importlib.metadata
import json
import os
import platform
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.int64]  # token ids
Batch = Sequence[Row]
Way = Callable[[Batch], Any]  # from a batch to the outputs of its rows, an array or a list of arrays
Settings = Mapping[str, Any]


class Contestant:
    """What can be run, and what is worth knowing about it."""

    def __init__(self, ways: Mapping[str, Way], packages: Sequence[str], facts: Callable[[], Any] = dict) -> None:
        self.ways, self.packages, self.facts = ways, packages, facts


def serve(prepare: Callable[[Settings], Contestant]) -> None:
    """Prepares once, then runs what it is asked to, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print where they like

    def answer(found: Mapping[str, Any]) -> None:
        answers.write(json.dumps(found) + "\n")
        answers.flush()

    try:
        settings = json.loads(sys.stdin.readline())
        workloads = {name: list(map(_batch, batches)) for name, batches in _read(settings["workloads"]).items()}
        contestant = prepare({**settings, "workloads": workloads})
        answer({"versions": _versions(contestant.packages), "facts": contestant.facts()})
    except Exception as error:
        traceback.print_exc()
        answer({"failed": f"{type(error).__name__}: {error}"})
        return
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            batches = workloads[asked["workload"]][: asked["batches"]]
            answer({**_run(contestant.ways[asked["way"]], batches, asked["vectors"]), "facts": contestant.facts()})
        except Exception as error:
            traceback.print_exc()
            answer({"failed": f"{type(error).__name__}: {error}"})


def padded(batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and mask, [rows, longest row]; the id of [PAD] is 0."""
    lengths = np.array([len(row) for row in batch])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(mask.shape, dtype=np.int64)
    ids[mask] = np.concatenate(batch)
    return ids, mask.astype(np.int64)


def mean_of(hidden: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    """The mean of each row's tokens, [rows, size], from [rows, length, size]."""
    weight = mask[:, :, None].astype(np.float32)
    mean: NDArray[np.float32] = (hidden * weight).sum(axis=1) / weight.sum(axis=1)
    return mean


def _read(file: str) -> dict[str, Any]:
    with open(file, encoding="utf-8") as opened:
        found: dict[str, Any] = json.load(opened)
        return found


def _batch(rows: Sequence[Sequence[int]]) -> list[Row]:
    return [np.array(row, dtype=np.int64) for row in rows]


def _run(way: Way, batches: Sequence[Batch], vectors: bool) -> dict[str, Any]:
    seconds, outputs = [], []
    for batch in batches:
        started = perf_counter()
        output = way(batch)
        seconds.append(perf_counter() - started)
        outputs.append(output)
    checksum = sum(float(np.sum(np.asarray(part, dtype=np.float64))) for output in outputs for part in output)
    return {"seconds": seconds, "checksum": checksum, "vectors": np.asarray(outputs[0]).tolist() if vectors else None}


def _versions(packages: Sequence[str]) -> dict[str, str]:
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}
