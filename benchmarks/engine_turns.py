"""What `benchmarks/engine.py` times in each round, on what rows, and what is asked of the ratios."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

from tokenizers import Tokenizer

from engine_parts import PARTS

SETS = ("sentiment", "banking-intent")
ROWS = 64  # of a batch
MAX_LENGTH = 128  # tokens
ALONE = 25  # tokens of a row alone
OURS = ("rootstock float32", "rootstock bfloat16", "rootstock int8", "rootstock int16")
BARE_PEERS = (
    "transformers float32", "transformers bfloat16", "ONNX Runtime float32", "ONNX Runtime int8", "OpenVINO float32",
    "OpenVINO bfloat16",
)  # fmt: skip
PRODUCTS = ((2048, 384, 1536), (2048, 1536, 384), (2048, 1024, 1024), (2048, 1536, 1536))  # tokens, inputs, outputs

SIDES = ("kernels", "torch")  # whose products

Batches = list[list[list[int]]]  # [batches][rows][token ids]


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    rounds: int = 10
    batches: int = 4  # of each data set
    in_memory: tuple[int, ...] = (1, 4, 16, 64, 256, 1000)  # tasks
    tasks: tuple[int, ...] = (1, 4, 16, 64)  # for the peers
    stored: int = 10_000
    resident: int = 1000  # of those
    lengths: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    alone: int = 50  # rows
    products: int = 5


FAST = Scale(
    rounds=2, batches=1, in_memory=(1, 64, 256), tasks=(64,), stored=500, resident=50, lengths=(32,), alone=20,
    products=2,
)  # fmt: skip


class Turn(NamedTuple):
    """What each round times once."""

    workload: str
    contestant: str
    way: str


class Asked(NamedTuple):
    """A ratio of speeds, and what it shall be at least."""

    name: str
    of: Turn
    to: Turn
    at_least: float | None


def turns(scale: Scale) -> Iterator[Turn]:
    """In the order in which they are run: those that are compared, one after another."""
    most = max(scale.tasks)
    for ours in OURS:
        yield Turn("real", ours, "bare")
        yield from (Turn("real", ours, f"houlsby {tasks}") for tasks in scale.in_memory)
        yield from (Turn("real", ours, f"{methods} {most}") for methods in ("lora", "methods"))
        yield Turn("real", ours, f"store {scale.stored}")
        yield from (Turn("real", ours, part) for part in PARTS)
    yield from (Turn("real", peer, "bare") for peer in BARE_PEERS)
    for library in ("adapters", "peft"):
        yield from (Turn("real", f"{library} float32", f"mixed {tasks}") for tasks in scale.tasks)
        yield Turn("real", f"{library} bfloat16", f"mixed {most}")
    yield from (Turn("real", f"latefuse {precision}", f"mixed {most}") for precision in ("float32", "bfloat16"))
    yield Turn("real", "adapters float32", f"switched {most}")
    for length in scale.lengths:
        yield from (Turn(f"length {length}", ours, way) for ours in OURS for way in ("bare", f"houlsby {most}"))
        yield from (Turn(f"length {length}", peer, "bare") for peer in BARE_PEERS)
    yield from (Turn("alone", ours, way) for ours in OURS for way in ("bare", "houlsby 1"))
    yield from (Turn("alone", peer, "bare") for peer in BARE_PEERS)
    for shape in PRODUCTS:
        for ours in OURS:
            sides = SIDES if ours != "rootstock int16" else SIDES[:1]  # torch has no product of such integers
            yield from (Turn("products", ours, product(side, shape)) for side in sides)


def product(side: str, shape: Sequence[int]) -> str:
    return f"{side} {' × '.join(map(str, shape))}"


def asked(scale: Scale) -> Iterator[Asked]:
    most = max(scale.tasks)
    many, mixed = f"houlsby {most}", f"mixed {most}"

    def real(contestant: str, way: str) -> Turn:
        return Turn("real", contestant, way)

    for ours in OURS:
        bare = real(ours, "bare")
        yield Asked(f"{ours}, {most} tasks : bare", real(ours, many), bare, 0.92)
        known = max(scale.in_memory)
        yield Asked(f"{ours}, {known} tasks : bare", real(ours, f"houlsby {known}"), bare, 0.9)
        stored = f"store {scale.stored}"
        yield Asked(f"{ours}, {scale.resident} of {scale.stored} tasks : bare", real(ours, stored), bare, 0.8)
        for precision in ("float32", "bfloat16"):
            adapters, peft = f"adapters {precision}", f"peft {precision}"
            latefuse, lora = f"latefuse {precision}", f"lora {most}"
            yield Asked(f"{ours} : {adapters} BatchSplit, {most} tasks", real(ours, many), real(adapters, mixed), 5)
            yield Asked(f"{ours} : {peft}, {most} tasks", real(ours, lora), real(peft, mixed), 5)
            yield Asked(f"{ours} : {latefuse}, {most} tasks", real(ours, lora), real(latefuse, mixed), 2)
        switched = real("adapters float32", f"switched {most}")
        yield Asked(f"{ours} : adapters float32 switched a row", real(ours, many), switched, 20)
    rivals = [
        ("rootstock int8", "ONNX Runtime int8", 1.0),
        ("rootstock int16", "ONNX Runtime int8", 1.0),
        ("rootstock bfloat16", "OpenVINO bfloat16", 1.0),
        ("rootstock float32", "ONNX Runtime float32", 1.2),
        ("rootstock float32", "OpenVINO float32", None),
    ]
    for ours, peer, least in rivals:
        yield Asked(f"{ours}, {most} tasks : {peer} bare", real(ours, many), real(peer, "bare"), least)
        for way in ("bare", "houlsby 1"):
            alone = Turn("alone", ours, way), Turn("alone", peer, "bare")
            yield Asked(f"{ours} {way} : {peer} bare, one row alone", *alone, 1 / 1.2)


def workloads(data: Path, base: str, scale: Scale) -> dict[str, Batches]:
    """Real rows as they come; rows of equal length, cut from the same texts; rows alone."""
    tokenizer = Tokenizer.from_file(str(Path(base) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_LENGTH)
    real: Batches = []
    for name in SETS:
        lines = (data / name / "test.jsonl").read_text(encoding="utf-8").splitlines()
        texts = [json.loads(line)["text"] for line in lines]
        drawn = Random(0).sample(texts, min(len(texts), ROWS * scale.batches))
        rows = [encoding.ids for encoding in tokenizer.encode_batch(drawn)]
        real += [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]
    stream = endless([token for batch in real for row in batch for token in row[1:-1]])
    first, last = real[0][0][0], real[0][0][-1]

    def cut(length: int) -> list[int]:
        return [first, *(next(stream) for _ in range(length - 2)), last]

    return {
        "real": real,
        **{f"length {length}": [[cut(length) for _ in range(ROWS)]] for length in scale.lengths},
        "alone": [[cut(ALONE)] for _ in range(scale.alone)],
        "products": [[cut(ALONE)] for _ in range(scale.products)],
    }


def endless(tokens: Sequence[int]) -> Iterator[int]:
    while True:
        yield from tokens
