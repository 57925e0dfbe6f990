"""Tokens of several adapters in blocks of one size, so that one product runs all of them: the index maths."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

WEIGHTS = 32  # tokens: as long as multiplying these, for the usual sizes, takes fetching a block's weights
TRIED = 17  # sizes


class Blocks(NamedTuple):
    """Every block is one adapter's. Places that are left over in an adapter's last one hold the first token of all."""

    size: int
    owners: Ints  # [blocks]: the adapter's number
    token: Ints  # [blocks · size]: which token each place holds
    place: Ints  # [tokens]: where each token is

    @property
    def full(self) -> bool:
        """Whether the tokens fill the blocks as they stand."""
        return len(self.token) == len(self.place)


def in_blocks(tokens: Sequence[int]) -> Blocks:
    """Blocks for so many tokens of each adapter, one after another."""
    counts = np.array(tokens, dtype=np.int64)
    size = _size(counts)
    blocks = -(-counts // size)
    first_place, first_token = size * _before(blocks), _before(counts)
    place = np.arange(counts.sum()) + np.repeat(first_place - first_token, counts)
    token = np.zeros(size * blocks.sum(), dtype=np.int64)
    token[place] = np.arange(len(place))
    return Blocks(size, np.repeat(np.arange(len(counts)), blocks), token, place)


def _size(counts: Ints) -> int:
    """The quickest, of what adapters here have: with it, many of them fill their blocks."""
    sizes = np.unique(np.quantile(counts, np.linspace(0, 1, TRIED)).astype(np.int64))
    blocks = -(-counts // sizes[:, None])  # [sizes, adapters]
    return int(sizes[np.argmin(blocks.sum(axis=1) * (sizes + WEIGHTS))])


def _before(counts: Ints) -> Ints:
    return np.cumsum(counts) - counts
