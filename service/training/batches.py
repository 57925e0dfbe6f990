"""Which rows are computed together: index maths, without a tensor."""

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

SORTED_BATCHES = 32  # this many batches' rows are sorted by length together


def shuffled(lengths: Sequence[int], size: int, generator: random.Random) -> Iterator[list[int]]:
    """A shuffled epoch in batches of nearly equal lengths, so that attention runs on few, full blocks."""
    order = list(range(len(lengths)))
    generator.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), size * SORTED_BATCHES):
        chunk = sorted(order[start : start + size * SORTED_BATCHES], key=lambda i: lengths[i])
        batches.extend(chunk[i : i + size] for i in range(0, len(chunk), size))
    generator.shuffle(batches)
    yield from batches


def shares(sizes: Sequence[int], count: int) -> list[slice]:
    """Cuts a sequence into at most `count` neighbouring parts of nearly equal size in sum; none is empty."""
    ends = np.cumsum(sizes)
    middles = ends - np.array(sizes) / 2  # an item belongs where its middle lies
    bounds = np.searchsorted(middles, ends[-1] * np.arange(count + 1) / count)
    return [slice(int(a), int(b)) for a, b in pairwise(bounds) if a < b]


def by_tokens(order: Sequence[int], lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """`order` in batches of at most `most` tokens, or of one row."""
    batch: list[int] = []
    tokens = 0
    for i in order:
        if batch and tokens + lengths[i] > most:
            yield batch
            batch, tokens = [], 0
        batch.append(i)
        tokens += lengths[i]
    if batch:
        yield batch
