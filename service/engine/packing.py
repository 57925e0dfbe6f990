"""Rows one after another, without padding: the index maths of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from service.tasks.reading import TokenizedRow


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
    blocks: list[Block]
    by_block: Tensor  # [T]: token numbers in the order of `blocks`
    restore: Tensor  # [T]: the way back
    in_blocks: bool  # whether both change nothing


def pack(rows: Sequence[TokenizedRow], prefixes: Sequence[int] | None = None) -> Packed:
    """Lays rows one after another, in the order given.

    Args:
        prefixes: how many keys of its own each row attends to besides its tokens; none when left out.
    """
    lengths = np.array([len(row) for row in rows])
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    shapes = np.stack([np.zeros_like(lengths) if prefixes is None else np.array(prefixes), lengths], axis=1)
    distinct, number = np.unique(shapes, axis=0, return_inverse=True)
    by_block = np.argsort(np.repeat(number, lengths), kind="stable")
    restore = np.empty_like(by_block)
    restore[by_block] = np.arange(len(by_block))
    return Packed(
        ids=torch.from_numpy(np.concatenate([row.ids for row in rows])),
        types=torch.from_numpy(np.concatenate([row.types for row in rows])),
        positions=torch.from_numpy(positions),
        lengths=torch.from_numpy(lengths),
        blocks=[
            Block(np.flatnonzero(number == block).tolist(), int(length), int(prefix))
            for block, (prefix, length) in enumerate(distinct)
        ],
        by_block=torch.from_numpy(by_block),
        restore=torch.from_numpy(restore),
        in_blocks=bool((np.diff(number) >= 0).all()),
    )
