"""Tokens of several adapters in blocks of one size, so that one product runs all of them: the index maths."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

MOST = 128  # tokens in a block; with more, reading an adapter's weights again for each block costs little


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
    """Blocks about as large as what an adapter has in the mean, for so many tokens of each, one after another."""
    counts = np.array(tokens, dtype=np.int64)
    size = min(MOST, 8 * -(-sum(tokens) // (8 * len(tokens))))
    blocks = -(-counts // size)
    first_place, first_token = size * _before(blocks), _before(counts)
    place = np.arange(counts.sum()) + np.repeat(first_place - first_token, counts)
    token = np.zeros(size * blocks.sum(), dtype=np.int64)
    token[place] = np.arange(len(place))
    return Blocks(size, np.repeat(np.arange(len(counts)), blocks), token, place)


def _before(counts: Ints) -> Ints:
    return np.cumsum(counts) - counts
