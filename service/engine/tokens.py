"""From texts to packed tokens: no padding, rows one after another, and the index maths of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from torch import Tensor

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TokenizedRow:
    """One input as the encoder reads it; special tokens included."""

    ids: Ids  # [length]
    types: Ids  # [length]; 0 for the first text, 1 for the second
    truncated: bool

    def __len__(self) -> int:
        return len(self.ids)


def tokenize(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
) -> list[TokenizedRow]:
    """Tokenises texts, or pairs of texts, cutting what is longer than `max_length`.

    A pair is cut from the end of whichever text is longer, so that both keep what they can. The tokenizer's own
    truncation is not used: it is state, and tasks with different lengths share one tokenizer.
    """
    firsts = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    seconds = tokenizer.encode_batch(list(pairs), add_special_tokens=False) if pairs is not None else None
    room = max_length - tokenizer.num_special_tokens_to_add(pairs is not None)
    rows = []
    for number, first in enumerate(firsts):
        second = seconds[number] if seconds is not None else None
        truncated = _cut(first, second, room)
        whole = tokenizer.post_process(first, second)
        rows.append(TokenizedRow(np.array(whole.ids), np.array(whole.type_ids), truncated))
    return rows


def _cut(first: Encoding, second: Encoding | None, room: int) -> bool:
    """Shortens in place until both texts fit into `room` tokens; says whether it had to."""
    if second is None:
        if len(first) <= room:
            return False
        first.truncate(room)
        return True
    keep_first, keep_second = share(len(first), len(second), room)
    if (keep_first, keep_second) == (len(first), len(second)):
        return False
    first.truncate(keep_first)
    second.truncate(keep_second)
    return True


def share(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens two texts of these lengths keep in `room`: the longer one gives first."""
    if first + second <= room:
        return first, second
    half = room // 2
    if first <= half:
        return first, room - first
    if second <= room - half:
        return room - second, second
    return half, room - half


@dataclass(frozen=True)
class Packed:
    """A batch without padding. T tokens in all, R rows."""

    ids: Tensor  # [T]
    types: Tensor  # [T]
    positions: Tensor  # [T], from 0 in each row
    lengths: Tensor  # [R]
    blocks: list[tuple[int, int]]  # per distinct length n, shortest first: (rows of that length, n)
    by_length: Tensor  # [T]: token numbers in the order of `blocks`
    restore: Tensor  # [T]: the way back


def pack(rows: Sequence[TokenizedRow]) -> Packed:
    """Lays rows one after another, in the order given."""
    lengths = np.array([len(row) for row in rows])
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    distinct, counts = np.unique(lengths, return_counts=True)
    by_length = np.argsort(np.repeat(lengths, lengths), kind="stable")
    restore = np.empty_like(by_length)
    restore[by_length] = np.arange(len(by_length))
    return Packed(
        ids=torch.from_numpy(np.concatenate([row.ids for row in rows])),
        types=torch.from_numpy(np.concatenate([row.types for row in rows])),
        positions=torch.from_numpy(positions),
        lengths=torch.from_numpy(lengths),
        blocks=list(zip(counts.tolist(), distinct.tolist(), strict=True)),
        by_length=torch.from_numpy(by_length),
        restore=torch.from_numpy(restore),
    )
