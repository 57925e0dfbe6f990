"""The engine itself as a contestant of `benchmarks/engine.py`: engine_ours.py float32|bfloat16|int8|int16

bare             the base without an adapter
houlsby N        N tasks with an adapter each, all in memory; up to a batch's rows each row has its own in turn,
                 beyond that rows ask for any of them alike
lora N           likewise, of the rank and targets that the peers have
methods N        likewise, the methods in turn
store N          N tasks by Zipf's law, fewer of them in memory: the others are read from the store beside the
                 engine, for the next `AHEAD` batches
and the parts of the bare pass, and products alone: `engine_parts.py`
"""

import os
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine_parts import parts, products
from peers.protocol import Batch, Contestant, Settings, Way, serve
from service.adapters.file import digest, write_adapter
from service.adapters.manifest import Manifest
from service.adapters.methods import AnyMethod, Houlsby, Lora, Parallel, Pfeiffer, PrefixTuning
from service.engine.arranging import load_resident
from service.engine.bank import Bank, Resident, bare_resident
from service.engine.base_model import BaseModel, load_base
from service.engine.engine import Engine, Row
from service.engine.native import taken_threads
from service.engine.sieve import Sieve
from service.metrics import Metrics
from service.registry.folder import FolderStore
from service.registry.registry import Registry
from service.registry.store import Given, State
from service.tasks import Floats, TokenizedRow, expected_shapes

AHEAD = 8  # batches whose adapters are asked for before their turn: as many requests of 64 rows wait in a busy service
WARM_UP = 20  # draws for each place in memory, before the store's traffic begins


def prepare(settings: Settings) -> Contestant:
    torch.set_num_threads(settings["threads"])
    base = load_base(settings["base"], dtype=sys.argv[1], serving=True)
    engine = Engine(base)
    bottleneck, rank, targets = settings["bottleneck"], settings["rank"], tuple(settings["targets"])
    houlsby, lora = Houlsby(bottleneck=bottleneck), Lora(rank=rank, alpha=2 * rank, targets=targets)
    several: list[AnyMethod] = [
        houlsby,
        Pfeiffer(bottleneck=bottleneck),
        Parallel(bottleneck=bottleneck),
        lora,
        PrefixTuning(length=8),
    ]
    most, few = max(settings["in_memory"]), max(settings["tasks"])
    files = Path(settings["cache"]) / "adapters"
    made = [load_resident(base, content, 1) for content in contents(base, files, [houlsby], most)]
    ways: dict[str, Way] = {"bare": InMemory(engine, [bare_resident(base)])}
    for tasks in settings["in_memory"]:
        ways[f"houlsby {tasks}"] = InMemory(engine, made[:tasks])
    others: dict[str, list[AnyMethod]] = {"lora": [lora], "methods": several}
    for name, methods in others.items():
        loaded = [load_resident(base, content, 1) for content in contents(base, files, methods, few)]
        ways[f"{name} {few}"] = InMemory(engine, loaded)
    store = FromStore(engine, settings, files)
    ways[f"store {settings['stored']}"] = store
    ways |= parts(base) | products(base, settings["products"])

    def facts() -> dict[str, Any]:
        return {"precision": base.precision, "linear_parameters": linear_parameters(base), "store": store.facts()}

    return Contestant(ways, ["torch", "transformers", "numpy"], facts)


class InMemory:
    def __init__(self, engine: Engine, residents: Sequence[Resident]) -> None:
        self._engine, self._residents, self._drawn = engine, residents, np.random.default_rng(0)

    def __call__(self, batch: Batch) -> list[Floats]:
        known = len(self._residents)
        numbers = np.arange(len(batch)) % known if known <= len(batch) else self._drawn.integers(known, size=len(batch))
        return self._engine.run(_rows(batch, [self._residents[number] for number in numbers]))


class FromStore:
    """Traffic over a real store, through the registry as the service has it."""

    def __init__(self, engine: Engine, settings: Settings, files: Path) -> None:
        self._engine, self._drawn = engine, np.random.default_rng(0)
        self._tasks, resident = settings["stored"], settings["resident"]
        folder = Path(settings["cache"]) / f"store-{engine.base.precision}-{self._tasks}"
        self._different = link(folder, sorted(files.glob("houlsby-*.safetensors")), self._tasks)
        self._bank = Bank(active=resident)
        self._registry = Registry(engine.base, FolderStore(folder), self._bank, Metrics(), engine.run)
        self._registry.open()
        weights = np.arange(1.0, self._tasks + 1) ** -settings["zipf"]
        self._share = weights / weights.sum()
        self._asked: deque[list[Future[Resident]]] = deque()
        self._rows = self._misses = 0
        for task in self._kept(resident):
            self._registry.resident(task)

    def __call__(self, batch: Batch) -> list[Floats]:
        with taken_threads():  # as the service has it: reading an adapter is too little for a second
            while len(self._asked) < AHEAD:
                self._asked.append([self._ask(task) for task in self._draw(len(batch))])
            return self._engine.run(_rows(batch, [found.result() for found in self._asked.popleft()]))

    def facts(self) -> dict[str, Any]:
        return {
            "tasks": self._tasks,
            "different_files": self._different,
            "resident": len(list(self._bank)),
            "rows_drawn": self._rows,
            "misses": self._misses,
        }

    def _draw(self, rows: int) -> list[str]:
        return [f"task-{number}" for number in self._drawn.choice(self._tasks, size=rows, p=self._share)]

    def _ask(self, task: str) -> Future[Resident]:
        self._rows += 1
        ready = self._registry.ready(task)
        if ready is None:
            self._misses += 1
            return self._registry.fetch(task)
        found: Future[Resident] = Future()
        found.set_result(ready)
        return found

    def _kept(self, resident: int) -> Iterable[str]:
        """What long traffic leaves in the bank, so that it need not be waited for; what goes first comes first."""
        sieve: Sieve[str] = Sieve()
        held: set[str] = set()
        for task in self._draw(WARM_UP * resident):
            if task in held:
                sieve.ask(task)
                continue
            if len(held) == resident:
                held.remove(sieve.pop())
            sieve.add(task)
            held.add(task)
        return [sieve.pop() for _ in held]


def linear_parameters(base: BaseModel) -> int:
    """Weights that every token is multiplied with."""
    layers = base.weights.layers
    every = (linear for layer in layers for linear in (layer.qkv, layer.attention_out, layer.ffn_in, layer.ffn_out))
    return sum(prod(linear.shape) for linear in every)


def contents(base: BaseModel, folder: Path, methods: Sequence[AnyMethod], count: int) -> Iterable[bytes]:
    """Adapter files that differ in every number, the methods in turn; made once and kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        method = methods[number % len(methods)]
        path = folder / f"{method.name}-{number}-{base.fingerprint[:8]}.safetensors"
        if not path.exists():
            manifest = Manifest(
                task="made", kind="classification", method=method, labels=["no", "yes"], base=base.identity
            )
            shapes = expected_shapes(manifest, base.dims)
            generator = torch.Generator().manual_seed(number)
            tensors = {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
            tensors |= {name: tensor + 1 for name, tensor in tensors.items() if name.endswith("norm.weight")}
            _write(path, write_adapter(manifest, tensors))
        yield path.read_bytes()


def link(folder: Path, files: Sequence[Path], tasks: int) -> int:
    """A store of so many tasks, as uploads leave it, from hard links to `files`; and how many of these there are.

    A file of its own for each would take 1.2 MB of the disk a task; the service reads, hashes and packs every one in
    either case, but here they come from the system's cache.
    """
    folder.mkdir(parents=True, exist_ok=True)
    states: dict[Path, str] = {}
    for number in range(tasks):
        file, path = files[number % len(files)], folder / f"task-{number}-1.safetensors"
        if not path.exists():
            os.link(file, path)
        if not (state := path.with_name(f"task-{number}.json")).exists():
            if file not in states:
                given = Given(digest=digest(file.read_bytes()))
                states[file] = State(active=1, last=1, versions={1: given}).model_dump_json()
            state.write_text(states[file])
    return len({path.stat().st_ino for path in folder.glob("*.safetensors")})


def _rows(batch: Batch, residents: Sequence[Resident]) -> list[Row]:
    def tokens(ids: Any) -> TokenizedRow:
        return TokenizedRow(ids, np.zeros_like(ids), truncated=False)

    return [Row(tokens(ids), resident) for ids, resident in zip(batch, residents, strict=True)]


def _write(path: Path, content: bytes) -> None:
    """In one step: the contestants of other precisions make the same files at the same time."""
    own = path.with_suffix(f".{os.getpid()}")
    own.write_bytes(content)
    own.replace(path)


if __name__ == "__main__":
    serve(prepare)
