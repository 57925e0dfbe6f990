"""Where a pass begins and ends: tokens embedded, heads run."""

from ctypes import Structure, addressof, c_float, c_int64, c_void_p

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.engine.native.binding import NAMES, call
from service.engine.packing import Packed
from service.engine.weights import Embeddings


class _Embeddings(Structure):
    _fields_ = (
        ("word", c_void_p), ("position", c_void_p), ("type", c_void_p), ("gain", c_void_p), ("shift", c_void_p),
        ("eps", c_float), ("size", c_int64),
    )  # fmt: skip


def embed(embeddings: Embeddings, batch: Packed, eps: float, dtype: torch.dtype) -> Tensor:
    """Embedded and normalised tokens, [tokens, size].

    Raises:
        IndexError: a table has no such row.
    """
    tables = ((embeddings.word, batch.ids), (embeddings.position, batch.positions), (embeddings.type, batch.types))
    for table, rows in tables:
        if table is not None and not 0 <= int(rows.min()) <= int(rows.max()) < len(table):
            raise IndexError(f"a token has row {int(rows.max())} of an embedding table with {len(table)}")
    addresses = (table.data_ptr() if table is not None else None for table, _ in tables)
    gain, shift = embeddings.norm
    size = embeddings.word.shape[1]
    seen = _Embeddings(*addresses, gain.data_ptr(), shift.data_ptr(), eps, size)
    out = torch.empty(len(batch.ids), size, dtype=dtype)
    given = (rows.data_ptr() for _, rows in tables)
    call(f"embed_{NAMES[dtype]}", addressof(seen), *given, len(out), out.data_ptr())
    return out


def heads(hidden: Tensor, asked: NDArray[np.int64]) -> NDArray[np.float32]:
    """Every head on the mean of its tokens: the numbers of all of them, one after another.

    Args:
        hidden: token vectors [tokens, hidden].
        asked: by head, tokens from and to, the addresses of weight [width, hidden] and bias [width] in float32 (0: the
            mean itself is the answer) and its width: [heads, 5].
    """
    ends = np.cumsum(asked[:, 4])
    records = np.concatenate([asked, (ends - asked[:, 4])[:, None]], axis=1)  # as the struct lies in memory
    out = np.empty(int(ends[-1]), dtype=np.float32)
    call(
        f"heads_{NAMES[hidden.dtype]}", hidden.data_ptr(), hidden.shape[1],
        records.ctypes.data, len(records), out.ctypes.data,
    )  # fmt: skip
    return out
