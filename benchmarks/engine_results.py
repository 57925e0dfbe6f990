"""From the times of `benchmarks/engine.py` to what is written down: medians with quartiles, ratios round by round."""

import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from engine_parts import PARTS
from engine_turns import OURS, PRODUCTS, SIDES, Asked, Batches, Turn, product
from service.engine.native.binding import build_for

# Processors by the engine's kernels for them, and the page's title of each.
# With AVX-512 two kinds: Intel's that have float16 multiply bfloat16 at half of float32's speed, AMD's at twice that.
KINDS = {
    "avx512": "Processors with AVX-512",
    "avx512-fp16": "Intel's processors with AVX-512 and float16",
    "avx2": "Processors with AVX2",
    "torch": "Other processors",
}

Times = Mapping[Turn, Sequence[Sequence[float]]]  # seconds of each batch, [rounds][batches]


def seconds(turn: Turn, times: Sequence[float]) -> float:
    """Of one round: a whole workload, or one batch of those that repeat the same."""
    return median(times) if turn.workload in ("alone", "products") else sum(times)


def summary(turn: Turn, batches: Batches, rounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    each = [seconds(turn, times) for times in rounds]
    found = {**turn._asdict(), "seconds": spread(each), "rounds": each}
    if turn.workload == "alone":
        every = sorted(time for times in rounds for time in times)
        found |= {"p50": median(every), "p95": quantiles(every, n=20)[-1]}
    elif turn.workload == "products":
        shape = next(shape for shape in PRODUCTS if turn.way in [product(side, shape) for side in SIDES])
        found["gops"] = spread([gops(shape, time) for time in each])
    else:
        found["rows_per_second"] = spread([sum(map(len, batches)) / time for time in each])
    return found


def ratios(wanted: Iterable[Asked], found: Times) -> Iterator[dict[str, Any]]:
    for name, of, to, least in wanted:
        if of in found and to in found:
            pairs = zip(found[of], found[to], strict=True)
            each = [seconds(to, theirs) / seconds(of, ours) for ours, theirs in pairs]
            yield {"name": name, **spread(each), "asked": least, "rounds": each}


def agreement(first: Mapping[Turn, Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, float]]]:
    """How near each one's bare vectors are to those of transformers in float32, by the rows of one batch."""
    vectors = {turn.contestant: torch.tensor(one["vectors"]) for turn, one in first.items() if one.get("vectors")}
    right = vectors.get("transformers float32")
    for name, found in vectors.items():
        if right is not None:
            cosines = torch.cosine_similarity(found.double(), right.double())
            yield (
                name,
                {"largest_difference": float((found - right).abs().max()), "lowest_cosine": float(cosines.min())},
            )


def shares(found: Times, real: Batches, parameters: Mapping[str, int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ours by precision: the peak of products alone, the pass's share of it, and where its time goes.

    Args:
        parameters: of each contestant, the weights that every token is multiplied with.
    """
    tokens = sum(len(row) for batch in real for row in batch)
    for ours in (name for name in OURS if Turn("real", name, "bare") in found):
        whole, *each = (median(map(sum, found[Turn("real", ours, way)])) for way in ("bare", *PARTS))
        part = dict(zip(PARTS, each, strict=True))
        part["attention, sums and LayerNorms"] = whole - sum(part.values())
        reached = 2e-9 * parameters[ours] * tokens / whole
        peaks = {side: peak(found, ours, side) for side in SIDES}
        yield (
            ours,
            {
                "peak_gops": peaks,
                "pass_gops": reached,
                "share_of_peak": {side: reached / gops for side, gops in peaks.items() if gops},
                "where_the_time_goes": {name: time / whole for name, time in part.items()},
            },
        )


def peak(found: Times, ours: str, side: str) -> float:
    """The fastest product of all, Gop/s; 0 where none could be run."""
    every = {shape: found.get(Turn("products", ours, product(side, shape))) for shape in PRODUCTS}
    return max((gops(shape, min(map(min, times))) for shape, times in every.items() if times), default=0.0)


def gops(shape: Sequence[int], seconds: float) -> float:
    return 2e-9 * prod(shape) / seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": middle, "lower_quartile": low, "upper_quartile": high}


def described(batches: Batches) -> dict[str, Any]:
    lengths = [len(row) for batch in batches for row in batch]
    padded = sum(len(batch) * max(map(len, batch)) for batch in batches)
    return {
        "batches": len(batches),
        "rows": len(lengths),
        "tokens": sum(lengths),
        "median_length": median(lengths),
        "longest": max(lengths),
        "tokens_when_padded": padded,
    }


def kind() -> str:
    """Of this processor: one of `KINDS`."""
    features = torch.cpu.get_capabilities()
    build = build_for(features)
    if build is None:
        return "torch"
    return f"{build.instructions}-fp16" if features.get("avx512_fp16") else build.instructions


def machine(threads: int) -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": models[0] if models else platform.processor(),
        "features": sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gb": round(memory / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
    }
