"""The compiled kernels: those that this processor runs are found, and called.

They are built with the package where there is a C++ compiler (`pyproject.toml`), once for each kind of processor.
Without them, or on yet another kind, everything runs in torch's operators, with the same answers.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import CDLL, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from sysconfig import get_config_var
from typing import Any, NamedTuple

import torch


class Build(NamedTuple):
    """The kernels for one kind of processor; features are named as torch does."""

    instructions: str
    needs: tuple[str, ...]  # what the compiler may use anywhere
    also: Mapping[str, tuple[str, ...]]  # its precisions, and what it uses in each of them alone


# The first that a processor has all of.
BUILDS = (
    Build(
        "avx512", ("avx512_f", "avx512_bw", "avx512_cd", "avx512_dq", "avx512_vl"),
        {"float32": (), "bfloat16": ("avx512_bf16",), "int16": ("avx512_vnni",), "int8": ("avx512_vnni",)},
    ),
    Build(
        "avx2", ("avx2", "bmi", "bmi2", "f16c", "fma3", "lzcnt"),
        {"float32": (), "bfloat16": (), "int16": ()},
    ),
)  # fmt: skip
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}  # of token vectors
INTEGERS = {"int8": torch.int8, "int16": torch.int16}  # precisions of linear layers alone, and their weights' dtypes
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
    "lay": [_POINTER, _NUMBER],
    **{f"{function}_{name}": types for function, types in _BY_DTYPE.items() for name in NAMES.values()},
}
_RESULTS = {"lay": c_int32}


def available(precision: str) -> bool:
    """Whether the kernels are here, and run on this processor in this precision."""
    build = _build()
    return build is not None and precision in build.also and _has(torch.cpu.get_capabilities(), build.also[precision])


def build_for(features: Mapping[str, Any]) -> Build | None:
    """What runs on a processor with these features, if anything does, and was made."""
    return next((build for build in BUILDS if _has(features, build.needs) and _file(build).exists()), None)


def call(function: str, *arguments: Any) -> Any:
    """Runs a kernel on its threads, and gives back what it does; others may run Python meanwhile."""
    library = _library()
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


@cache
def _build() -> Build | None:
    return build_for(torch.cpu.get_capabilities())


def _has(features: Mapping[str, Any], needs: Sequence[str]) -> bool:
    return all(features.get(need) for need in needs)


def _file(build: Build) -> Path:
    return Path(__file__).parent / f"_{build.instructions}{get_config_var('EXT_SUFFIX')}"


@cache
def _library() -> CDLL:
    build = _build()
    assert build is not None
    library = CDLL(str(_file(build)))
    for name, signature in _SIGNATURES.items():
        function = getattr(library, f"rootstock_{name}")
        function.argtypes, function.restype = signature, _RESULTS.get(name)
    return library
