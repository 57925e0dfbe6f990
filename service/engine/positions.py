"""Positions that enter by attention, not by the embeddings: angles, windows, and buckets of distances."""

import math

import torch
from torch import Tensor

from service.engine.weights import Distances, Rotary


def rotary(theta: float, positions: int, size: int) -> Rotary:
    """Angles for heads of `size` numbers: pair i turns by position · theta^(-2i / size)."""
    speeds = theta ** -(torch.arange(0, size, 2, dtype=torch.float32) / size)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), speeds).repeat(1, 2)
    return Rotary(angles.cos(), angles.sin())


def windowed(window: int, positions: int) -> Distances:
    """Tokens that see no further than `window` tokens to each side."""
    beyond = _distances(positions).abs() > window
    return Distances(torch.zeros(1, len(beyond)).masked_fill(beyond, -math.inf), free=window + 1)


def bucketed(by_bucket: Tensor, positions: int, furthest: int = 128) -> Distances:
    """A number for each head and bucket of distances, as T5 counts them (Raffel et al. 2020, arXiv 1910.10683).

    Half of the buckets are for keys before the query, half for those behind it; of each half, the first half holds
    one distance each, the others ever more of them, up to `furthest`.

    Args:
        by_bucket: [buckets, heads]
    """
    away = _distances(positions)
    half = len(by_bucket) // 2
    single = half // 2
    size = away.abs()
    wide = torch.log(size.clamp(min=1) / single) / math.log(furthest / single) * (half - single)
    bucket = torch.where(size < single, size, (single + wide.long()).clamp(max=half - 1)) + half * (away > 0)
    return Distances(by_bucket[bucket].T.contiguous(), free=0)


def _distances(positions: int) -> Tensor:
    """How far a key may stand behind its query: [2·positions - 1], the middle 0."""
    return torch.arange(1 - positions, positions)
