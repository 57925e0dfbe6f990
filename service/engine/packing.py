"""Rows one after another, without padding: the index maths of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.engine.device import sent
from service.tasks.reading import TokenizedRow

Ints = NDArray[np.int64]


class Block(NamedTuple):
    """Rows that attention runs as one dense piece: equally long, behind equally long prefixes."""

    rows: list[int]  # their numbers in the batch
    length: int
    prefix: int

    @property
    def tokens(self) -> int:
        return len(self.rows) * self.length


@dataclass(frozen=True)
class Packed:
    """A batch without padding. T tokens in all, R rows."""

    ids: Tensor  # [T]
    types: Tensor  # [T]
    positions: Tensor  # [T], from 0 in each row
    lengths: Tensor  # [R]
    starts: Ints  # [R + 1]: where each row begins, and the last one ends
    prefixes: Ints  # [R]: how many keys of its own each row attends to besides its tokens

    def to(self, device: torch.device) -> Self:
        ids, types, positions, lengths = (sent(x, device) for x in (self.ids, self.types, self.positions, self.lengths))
        return replace(self, ids=ids, types=types, positions=positions, lengths=lengths)

    @cached_property
    def longest(self) -> int:
        return int(np.diff(self.starts).max())

    @cached_property
    def starts_there(self) -> Tensor:
        """[R + 1]: `starts` on the device, in int32."""
        return sent(torch.from_numpy(self.starts.astype(np.int32)), self.ids.device)

    @cached_property
    def blocks(self) -> list[Block]:
        numbers, sizes = self._alike
        return [
            Block(np.flatnonzero(numbers == number).tolist(), int(length), int(prefix))
            for number, (prefix, length) in enumerate(sizes)
        ]

    @cached_property
    def by_block(self) -> Tensor:
        """[T]: token numbers in the order of `blocks`."""
        return sent(torch.from_numpy(self._in_turn), self.ids.device)

    @cached_property
    def restore(self) -> Tensor:
        """[T]: the way back."""
        restore = np.empty_like(self._in_turn)
        restore[self._in_turn] = np.arange(len(restore))
        return sent(torch.from_numpy(restore), self.ids.device)

    @cached_property
    def in_blocks(self) -> bool:
        """Whether `by_block` changes nothing."""
        numbers, _ = self._alike
        return bool((np.diff(numbers) >= 0).all())

    @cached_property
    def _in_turn(self) -> Ints:
        numbers, _ = self._alike
        return np.argsort(np.repeat(numbers, np.diff(self.starts)), kind="stable")

    @cached_property
    def _alike(self) -> tuple[Ints, Ints]:
        """The number of each row's block, and what the blocks have in common: [R], [blocks, prefix and length]."""
        sizes, numbers = np.unique(np.stack([self.prefixes, np.diff(self.starts)], axis=1), axis=0, return_inverse=True)
        return numbers, sizes


def pack(rows: Sequence[TokenizedRow], prefixes: Sequence[int] | None = None) -> Packed:
    """Lays rows one after another, in the order given.

    Args:
        prefixes: how many keys of its own each row attends to besides its tokens; none when left out.
    """
    lengths = np.array([len(row) for row in rows])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return Packed(
        ids=torch.from_numpy(np.concatenate([row.ids for row in rows])),
        types=torch.from_numpy(np.concatenate([row.types for row in rows])),
        positions=torch.from_numpy(np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)),
        lengths=torch.from_numpy(lengths),
        starts=starts,
        prefixes=np.zeros_like(lengths) if prefixes is None else np.array(prefixes),
    )
