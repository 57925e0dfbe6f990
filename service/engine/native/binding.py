"""The compiled kernels: found, checked against this processor, and called.

They are built with the package where there is a C++ compiler (`pyproject.toml`). Without them, or on another kind of
processor, everything runs in torch's operators, with the same answers.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ctypes import CDLL, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from sysconfig import get_config_var
from typing import Any

import torch
from torch import Tensor

# What the kernels' instructions need of a processor, as torch names it. The compiler may use the first five anywhere.
BUILT_FOR = ("avx512_f", "avx512_bw", "avx512_cd", "avx512_dq", "avx512_vl")
NEEDED_BY = {"float32": (), "bfloat16": ("avx512_bf16",), "int8": ("avx512_vnni",)}
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}  # of token vectors
LANES = 16  # numbers in a vector: what sizes are multiples of

_POINTER, _NUMBER = c_void_p, c_int64
_BY_DTYPE = {
    "linear": [_POINTER, c_int32, _POINTER, _POINTER, _NUMBER],
    "embed": [*4 * [_POINTER], _NUMBER, _POINTER],
    "through": [*2 * [_POINTER], *2 * [_NUMBER], *3 * [_POINTER]],
    "heads": [_POINTER, _NUMBER, _POINTER, _NUMBER, _POINTER],
}
_SIGNATURES: Mapping[str, list[Any]] = {
    "use": [_NUMBER],
    "pack": [_POINTER, *3 * [_NUMBER], _POINTER],
    "lay": [_POINTER, _NUMBER],
    **{f"{function}_{name}": types for function, types in _BY_DTYPE.items() for name in NAMES.values()},
}
_RESULTS = {"lay": c_int32}


def available(precision: str) -> bool:
    """Whether the kernels are here, and run on this processor in "float32", "bfloat16" or "int8"."""
    return _library() is not None and all(_capabilities().get(need) for need in NEEDED_BY[precision])


def call(function: str, *arguments: Any) -> Any:
    """Runs a kernel on its threads, and gives back what it does; others may run Python meanwhile."""
    library = _library()
    assert library is not None
    library.rootstock_use(_own_threads or torch.get_num_threads())
    return getattr(library, f"rootstock_{function}")(*arguments)


_own_threads: int | None = None  # None: as many as torch's operators have


@contextmanager
def taken_threads() -> Iterator[None]:
    """Meanwhile the kernels keep as many threads as torch has now, and torch's operators one.

    For a process that serves: what torch has left to do there, as reading an adapter, is too little for a second.
    """
    global _own_threads
    before = torch.get_num_threads()
    _own_threads = before
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _own_threads = None
        torch.set_num_threads(before)


def packed_numbers(n: int, k: int) -> int:
    """How many numbers a packed matrix [n, k] takes."""
    return -(-n // LANES) * LANES * k


def pack(weight: Tensor, address: int) -> None:
    """Packs [n, k] to `packed_numbers(n, k)` numbers of the same dtype.

    Args:
        weight: k is a multiple of 4.
        address: where to, a multiple of 64.
    """
    n, k = weight.shape
    call("pack", weight.data_ptr(), n, k, weight.itemsize, address)


def _capabilities() -> Mapping[str, Any]:
    return torch.cpu.get_capabilities()


@cache
def _library() -> CDLL | None:
    built = Path(__file__).parent / f"_kernels{get_config_var('EXT_SUFFIX')}"
    if not built.exists() or not all(_capabilities().get(need) for need in BUILT_FOR):
        return None
    library = CDLL(str(built))
    for name, signature in _SIGNATURES.items():
        function = getattr(library, f"rootstock_{name}")
        function.argtypes, function.restype = signature, _RESULTS.get(name)
    return library
