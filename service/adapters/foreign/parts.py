"""Parts of any sizes, layer by layer, as tensors of one of our methods, whose parts all have one size.

A smaller part is filled up with zeros, and so is the place of an absent one: both add exactly nothing.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from service.adapters.methods import (
    TARGETS,
    AnyMethod,
    Dims,
    Houlsby,
    Lora,
    Parallel,
    Pfeiffer,
    Place,
    PrefixTuning,
    Target,
)
from service.adapters.methods.adaptation import Activation
from service.adapters.methods.bottleneck import MAX_BOTTLENECK
from service.errors import BadAdapter

MAX_RANK = 1024
ALL_TARGETS = tuple(target for targets in TARGETS.values() for target in targets)
Arranged = tuple[AnyMethod, dict[str, Tensor]]


class Block(NamedTuple):
    """A bottleneck."""

    down: Tensor  # [m, d]
    down_bias: Tensor  # [m]
    up: Tensor  # [d, m]
    up_bias: Tensor  # [d]


class Change(NamedTuple):
    """A low-rank change: up · down, the scale within."""

    down: Tensor  # [r, in]
    up: Tensor  # [out, r]


def bottlenecks(
    blocks: Mapping[tuple[int, Place], Block], activation: Activation, beside: bool, dims: Dims
) -> Arranged:
    if not blocks:
        raise BadAdapter("no layer has a bottleneck")
    layers = tuple(sorted({layer for layer, _ in blocks}))
    size = max(len(block.down) for block in blocks.values())
    if size > MAX_BOTTLENECK:
        raise BadAdapter(f"a bottleneck of {size} is not supported: at most {MAX_BOTTLENECK}")
    found = {place for _, place in blocks}
    options: dict[str, Any] = {
        "bottleneck": size, "activation": activation, "norms": False, "layers": _some(layers, dims),
    }  # fmt: skip
    method: Houlsby | Pfeiffer | Parallel
    if beside:
        if found != {"ffn"}:
            raise BadAdapter("bottlenecks beside the attention are not supported: ours run beside the feed-forward")
        method = Parallel(**options)
    else:
        method = Pfeiffer(**options) if found == {"ffn"} else Houlsby(**options)
    tensors = {name: torch.zeros(shape) for name, shape in method.shapes(dims).items()}
    for (layer, place), block in blocks.items():
        missing, site = size - len(block.down), f"layers.{layer}.{place}"
        tensors[f"{site}.down.weight"] = F.pad(block.down, (0, 0, 0, missing))
        tensors[f"{site}.down.bias"] = F.pad(block.down_bias, (0, missing))
        tensors[f"{site}.up.weight"] = F.pad(block.up, (0, missing))
        tensors[f"{site}.up.bias"] = block.up_bias
    return method, tensors


def low_ranks(changes: Mapping[tuple[int, Target], Change], dims: Dims) -> Arranged:
    if not changes:
        raise BadAdapter("no layer has a low-rank change")
    layers = tuple(sorted({layer for layer, _ in changes}))
    targets = tuple(target for target in ALL_TARGETS if any(target == changed for _, changed in changes))
    rank = max(len(change.down) for change in changes.values())
    if rank > MAX_RANK:
        raise BadAdapter(f"a rank of {rank} is not supported: at most {MAX_RANK}")
    method = Lora(rank=rank, alpha=rank, targets=targets, layers=_some(layers, dims))
    tensors = {name: torch.zeros(shape) for name, shape in method.shapes(dims).items()}
    for (layer, target), change in changes.items():
        missing, site = rank - len(change.down), f"layers.{layer}.{target}"
        tensors[f"{site}.down.weight"] = F.pad(change.down, (0, 0, 0, missing))
        tensors[f"{site}.up.weight"] = F.pad(change.up, (0, missing))
    return method, tensors


def prefixes(keys_and_values: Tensor) -> Arranged:
    """From [length, layers · 2, hidden]: by layer, keys and then values."""
    length, both, _ = keys_and_values.shape
    tensors = {
        f"layers.{number // 2}.prefix.{('key', 'value')[number % 2]}": keys_and_values[:, number].contiguous()
        for number in range(both)
    }
    return PrefixTuning(length=length), tensors


def _some(layers: tuple[int, ...], dims: Dims) -> tuple[int, ...] | None:
    return None if layers == tuple(range(dims.layers)) else layers
