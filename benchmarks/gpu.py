"""Rows a second on a GPU: a base of BERT's size, batches of 512 rows of 128 tokens, with none, 64 and 1,024 tasks.

    python benchmarks/gpu.py [--dtype bfloat16] [--rounds 20] [--peers FOLDER]

The base has BERT-base's sizes and random weights; time does not depend on them. `--peers` is the folder of
`benchmarks/engine.py`: of the environments there, `adapters` and `peft` run 64 tasks on the same batch. Rows of ours go
through a head as well, those of the peers end with the mean of their tokens. Writes `benchmarks/results/gpu.json`.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from engine_contestants import Failed, Running
from engine_ours import InMemory
from made import made_adapter
from service.engine.arranging import load_resident
from service.engine.bank import Resident, bare_resident
from service.engine.base_model import DEFAULT_BASE, BaseModel, load_base, locate
from service.engine.engine import Engine

RESULTS = Path(__file__).parent / "results"
ROWS, LENGTH = 512, 128
TASKS = (64, 1024)
PEERS_TASKS = 64
WARM_UP = 3  # batches


def made_base(folder: Path, **sizes: Any) -> Path:
    """A BERT with random weights, by its config's own sizes unless said otherwise, and the default base's tokenizer."""
    torch.manual_seed(0)
    BertModel(BertConfig(**sizes)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(locate(DEFAULT_BASE)).save_pretrained(folder)
    return folder


def made_batch(rows: int, length: int) -> list[list[int]]:
    ids: list[list[int]] = np.random.default_rng(0).integers(1000, 30_000, (rows, length)).tolist()
    return ids


def ours(base: BaseModel, batch: list[list[int]], tasks: tuple[int, ...], rounds: int) -> Iterator[dict[str, Any]]:
    engine, rows = Engine(base), [np.array(row) for row in batch]
    residents: list[Resident] = []
    for count in (0, *tasks):
        residents += [load_resident(base, made_adapter(base, number), 1) for number in range(len(residents), count)]
        way = InMemory(engine, residents or [bare_resident(base)])
        seconds = []
        for _ in range(WARM_UP + rounds):
            started = perf_counter()
            way(rows)
            seconds.append(perf_counter() - started)
        yield result(f"rootstock, {count} tasks" if count else "rootstock, bare", len(batch), seconds[WARM_UP:])


def peers(folder: Path, base: Path, batch: list[list[int]], dtype: str, rounds: int) -> Iterator[dict[str, Any]]:
    """Those whose environment is there."""
    file = base / "workloads.json"
    file.write_text(json.dumps({"gpu": [batch] * (WARM_UP + rounds)}))
    settings = {
        "base": str(base), "threads": torch.get_num_threads(), "bottleneck": 64, "rank": 8, "device": "cuda",
        "targets": ["query", "value"], "tasks": [PEERS_TASKS], "workloads": str(file),
    }  # fmt: skip
    for name in ("adapters", "peft"):
        if not (folder / name).is_dir():
            continue
        running = Running(f"{name} {dtype}", folder, settings)
        try:
            running.loaded()
            seconds = running.ask(f"mixed {PEERS_TASKS}", "gpu")["seconds"]
            yield result(f"{name}, {PEERS_TASKS} tasks", len(batch), seconds[WARM_UP:])
        except Failed as failure:
            yield {"way": f"{name}, {PEERS_TASKS} tasks", "failed": str(failure)}
        finally:
            running.end()


def result(way: str, rows: int, seconds: list[float]) -> dict[str, Any]:
    quickest, middle, slowest = (rows / float(np.quantile(seconds, share)) for share in (0.1, 0.5, 0.9))
    return {"way": way, "rows_per_second": {"median": middle, "p10": slowest, "p90": quickest}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--peers", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, "benchmarks/gpu.py needs a GPU, and torch's CUDA build: torch finds no CUDA device here\n")
    batch, found = made_batch(ROWS, LENGTH), []
    with TemporaryDirectory() as temporary:
        folder = made_base(Path(temporary))
        base = load_base(str(folder), options.dtype, serving=True, device="cuda")
        for one in ours(base, batch, TASKS, options.rounds):
            print(json.dumps(one), flush=True)
            found.append(one)
        if options.peers:
            found += peers(options.peers, folder, batch, options.dtype, options.rounds)
    report = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "dtype": options.dtype, "rows": ROWS,
        "tokens_a_row": LENGTH, "memory_bytes": torch.cuda.max_memory_allocated(), "results": found,
    }  # fmt: skip
    (RESULTS / "gpu.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
