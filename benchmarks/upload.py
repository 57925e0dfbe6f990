"""From an upload to its first answer: an adapter of 1.2 MB, judged, proved, kept on the disk, activated and asked.

    python benchmarks/upload.py [--rounds 60]

A real service on a copy of `adapters_store`, spoken to over HTTP. Each round sends a shipped adapter with another
description, golden examples and seal included, under a task of its own, and asks it one text; the tasks that were there
are its strangers. Beside it the parts of the same uploads in one process without HTTP: judging, the proof with nobody
else in the engine, and the store's writes. Writes `benchmarks/results/upload.json`.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

from service.adapters.file import read_header, read_tensors, write_adapter
from service.client import Client
from service.engine.arranging import Arranger
from service.engine.base_model import BaseModel, load_base
from service.engine.engine import Engine
from service.registry.folder import FolderStore
from service.registry.proof import Prover
from service.registry.store import State
from serving import running_service

HERE = Path(__file__).parent
STORE = HERE.parent / "adapters_store"
RESULT = HERE / "results" / "upload.json"
TASKS = ("sentiment", "spam", "question-type")  # of one text; the median file has 1.2 MB
TEXT = "What a wonderful, funny and moving film."
WARM = 3  # uploads that are not counted
LIMIT = 150.0  # milliseconds, of the median


def variants(count: int) -> list[bytes]:
    """Files that nobody has seen, whose golden examples are true."""
    made = []
    for number, task in zip(range(count), cycle(TASKS), strict=False):
        data = (STORE / f"{task}-1.safetensors").read_bytes()
        header = read_header(data)
        manifest = header.manifest.model_copy(update={"description": f"copy {number}"})
        made.append(write_adapter(manifest, read_tensors(data, header)))
    return made


def over_http(store: Path, files: list[bytes]) -> dict[str, list[float]]:
    """Milliseconds of each round: until the upload is acknowledged, and until it has answered."""
    acknowledged, answered = [], []
    with running_service(store) as service, Client(service.url) as client:
        for number, data in enumerate(files):
            started = perf_counter()
            version = client.push(f"fresh-{number}", data)
            acknowledged.append(1000 * (perf_counter() - started))
            [answer] = client.predict(f"fresh-{number}", [TEXT])
            answered.append(1000 * (perf_counter() - started))
            assert version["proof"] is not None
            assert version["proof"]["golden"] > 0
            assert answer["label"]
    return {"upload_acknowledged": acknowledged[WARM:], "first_answer": answered[WARM:]}


def by_parts(base: BaseModel, store: FolderStore, files: list[bytes]) -> dict[str, list[float]]:
    """Milliseconds of each part of an upload, and of all processors' work on it."""
    arranger, prover = Arranger(base), Prover(base, Engine(base).run)
    others = [arranger.judge(path.read_bytes(), 1).resident for path in sorted(STORE.glob("*.safetensors"))]
    parts = ("judging", "proof", "store")
    spent: dict[str, list[float]] = {name: [] for part in parts for name in (part, f"{part}_processor")}

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        started, worked = perf_counter(), process_time()
        yield
        spent[part].append(1000 * (perf_counter() - started))
        spent[f"{part}_processor"].append(1000 * (process_time() - worked))

    for number, data in enumerate(files):
        with timed("judging"):
            judged = arranger.judge(data, 1)
        with timed("proof"):
            prover.prove(judged.resident, judged.sealed, others)
        with timed("store"):
            _keep(store, f"part-{number}", data)
    return {part: times[WARM:] for part, times in spent.items()}


def _keep(store: FolderStore, name: str, data: bytes) -> None:
    """As the registry does with a new task."""
    tag = store.write_state(name, State(active=None, last=0), None)
    store.write(name, 1, data)
    store.write_state(name, State(active=1, last=1), tag)


def _spread(milliseconds: list[float]) -> dict[str, float]:
    cuts = quantiles(milliseconds, n=100)
    return {"p50": round(cuts[49], 1), "p90": round(cuts[89], 1), "p99": round(cuts[98], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    files = variants(options.rounds + WARM)
    base = load_base(dtype="auto", serving=True)
    with TemporaryDirectory() as folder:
        store = Path(shutil.copytree(STORE, Path(folder) / "store"))
        found = over_http(store, files) | by_parts(base, FolderStore(Path(folder) / "parts"), files)
    result: dict[str, Any] = {
        "uploads": options.rounds,
        "bytes": median(map(len, files)),
        "precision": base.precision,
        "milliseconds": {name: _spread(times) for name, times in found.items()},
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    if result["milliseconds"]["first_answer"]["p50"] > LIMIT:
        raise SystemExit(f"the median is over {LIMIT:.0f} ms")


if __name__ == "__main__":
    main()
