"""Tensors as the kernels read them: which goes where, and in which type (laying.h)."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.engine.native.binding import LANES, call

Table = NDArray[Any]

TENSOR = np.dtype(
    [(name, np.uint64) for name in ("from", "to", "scale", "total")]
    + [("n", np.int64), ("k", np.int64), ("stored", np.int32), ("wanted", np.int32), ("packed", np.int64)]
)  # a pointer as the number that it is
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int16: 3, torch.int8: 4}
BYTES = np.array([dtype.itemsize for dtype in TYPES])


def lay(tensors: Table) -> bool:
    """Lays them out.

    Args:
        tensors: of TENSOR. Whatever is packed goes to a multiple of 64.

    Returns:
        Whether all their numbers are finite.
    """
    return bool(call("lay", tensors.ctypes.data, len(tensors)))


def whole(n: int) -> int:
    """The next multiple of what the kernels compute at once."""
    return -(-n // LANES) * LANES


def packed_numbers(n: int, k: int) -> int:
    """How many numbers a packed matrix [n, k] takes."""
    return whole(n) * k
