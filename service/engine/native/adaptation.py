"""An adapter packed for the kernels: one block of memory, and tables of where in it each layer's parts begin."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import finalize

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from service.adapters.methods import PLACES, TARGETS, Adaptation, Dims
from service.adapters.methods.adaptation import Bottleneck, LowRank, Norm, Prefix
from service.engine.native.laying import BYTES, TENSOR, TYPES, Table, lay, packed_numbers, whole
from service.engine.native.linear import ACTIVATIONS
from service.engine.native.memory import Blocks

LINE = 64  # bytes: what each part begins at a multiple of
ALL_TARGETS = tuple(target for targets in TARGETS.values() for target in targets)
# The structs of adapters.h and attention.h, a pointer as the number that it is.
MATRICES = [(name + part, np.uint64) for name in ("down", "up") for part in ("", "_scale", "_total", "_bias")]
SITE = np.dtype(
    MATRICES
    + [(name, np.uint64) for name in ("gain", "shift")]
    + [(name, np.int32) for name in ("width", "activation", "beside", "unused")]
)
LOW_RANK = np.dtype([*MATRICES, ("rank", np.int32), ("out", np.int32), ("first", np.int64)])
PREFIX = np.dtype([("keys", np.uint64), ("values", np.uint64), ("length", np.int64)])
Memory = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class NativeAdaptation:
    """What `Adaptation` holds, as the kernels read it. The tables point into `memory`."""

    first_layer: int | None
    prefix_length: int
    sites: Table | None  # [layers, places] of SITE; None: no bottlenecks, no norms
    low_ranks: Table | None  # [layers, targets] of LOW_RANK
    prefixes: Table | None  # [layers] of PREFIX
    memory: Memory = field(repr=False)

    @cached_property
    def addresses(self) -> tuple[int, int, int]:
        """Where the three tables are; 0: there is none."""
        tables = (self.sites, self.low_ranks, self.prefixes)
        sites, low_ranks, prefixes = (0 if table is None else table.ctypes.data for table in tables)
        return sites, low_ranks, prefixes

    @property
    def nbytes(self) -> int:
        tables = (self.sites, self.low_ranks, self.prefixes)
        return self.memory.nbytes + sum(table.nbytes for table in tables if table is not None)


NOTHING = NativeAdaptation(None, 0, None, None, None, np.empty(0, dtype=np.uint8))


def packed_adaptation(adaptation: Adaptation, dims: Dims, dtype: torch.dtype, blocks: Blocks) -> NativeAdaptation:
    """Packs an adapter of any dtypes; nothing of what comes out refers to its tensors.

    Args:
        dtype: what the matrices become: that of token vectors, or int16.
    """
    return Mould(adaptation, {}, dims, dtype, blocks).cast()[0]


class Mould:
    """How adapters of one shape are packed: what of their tensors goes where in a block, and the tables over that.
    Their heads come out beside it, as float32 tensors.

    It is made from a first one, and packs another whose tensors lie to each other as that one's do, as those of files
    with one table of tensors.
    """

    def __init__(
        self, adaptation: Adaptation, head: Mapping[str, Tensor], dims: Dims, dtype: torch.dtype, blocks: Blocks
    ) -> None:
        """As `packed_adaptation`."""
        self._blocks = blocks
        parts = _Parts(dtype)
        sites = np.zeros((dims.layers, len(PLACES)), SITE)
        for layer, place in {**adaptation.bottlenecks, **adaptation.norms}:  # what a site has lies together
            record = sites[layer, PLACES.index(place)]
            if (layer, place) in adaptation.bottlenecks:
                _put_bottleneck(parts, record, adaptation.bottlenecks[layer, place])
            if (layer, place) in adaptation.norms:
                _put_norm(parts, record, adaptation.norms[layer, place])
        low_ranks = np.zeros((dims.layers, len(ALL_TARGETS)), LOW_RANK)
        for (layer, target), part in adaptation.low_ranks.items():
            _put_low_rank(parts, low_ranks[layer, ALL_TARGETS.index(target)], part)
            if target in TARGETS["qkv"]:
                low_ranks[layer, ALL_TARGETS.index(target)]["first"] = TARGETS["qkv"].index(target) * dims.hidden
        prefixes = np.zeros(dims.layers, PREFIX)
        for layer, prefix in adaptation.prefixes.items():
            _put_prefix(parts, prefixes[layer], prefix)
        self._first_layer, self._prefix_length = adaptation.first_layer, adaptation.prefix_length
        tables = (
            sites if adaptation.bottlenecks or adaptation.norms else None,
            low_ranks if adaptation.low_ranks else None,
            prefixes if adaptation.prefixes else None,
        )
        self._tables = [None if table is None else (table, _pointers(table)) for table in tables]
        self._size, self._heads = parts.size, {name: tensor.shape for name, tensor in head.items()}
        for tensor in head.values():
            parts.add_apart(tensor)
        self._tensors = parts.tensors()
        self._held: list[Tensor] = parts.held  # what the first one is cast from

    def reusable(self, address: int, size: int) -> bool:
        """Lets go the first one's tensors, if all that is packed lies in these bytes, and nothing was made for it."""
        starts = self._tensors["from"].astype(np.int64)
        ends = starts + self._tensors["n"] * self._tensors["k"] * BYTES[self._tensors["stored"]]
        if not ((starts >= address).all() and (ends <= address + size).all()):
            return False
        self._held = []
        return True

    def cast(self, shift: int = 0) -> tuple[NativeAdaptation, dict[str, Tensor], bool]:
        """Packs the adapter whose tensors lie `shift` bytes behind those of the first one.

        Returns:
            The adapter, its head, and whether its numbers are all finite.
        """
        block = self._blocks.take(self._size)
        memory = np.frombuffer(block, dtype=np.uint8)
        address = memory.ctypes.data
        head = {name: torch.empty(shape) for name, shape in self._heads.items()}
        tensors = self._tensors.copy()
        tensors["from"] += np.uint64(shift % 2**64)
        packed = len(tensors) - len(head)
        tensors["to"][:packed] += np.uint64(address)
        tensors["to"][packed:] = [tensor.data_ptr() for tensor in head.values()]
        tensors["scale"][tensors["scale"] != 0] += np.uint64(address)
        finite = lay(tensors)
        sites, low_ranks, prefixes = (None if table is None else _beginning(*table, address) for table in self._tables)
        adaptation = NativeAdaptation(self._first_layer, self._prefix_length, sites, low_ranks, prefixes, memory)
        finalize(adaptation, self._blocks.give_back, block).atexit = False
        return adaptation, head, finite


def _pointers(table: Table) -> NDArray[np.int64]:
    """Which of the table's words, of 8 bytes, point to something."""
    marks = np.zeros_like(table)
    for name in table.dtype.names or ():
        if table.dtype[name] == np.uint64:
            marks[name] = table[name] != 0
    return np.flatnonzero(_words(marks))


def _words(table: Table) -> NDArray[np.uint64]:
    return table.reshape(-1).view(np.uint64)


def _beginning(table: Table, pointers: NDArray[np.int64], address: int) -> Table:
    """The table over a block that begins at `address`; the one given counts from `LINE`."""
    moved = table.copy()
    _words(moved)[pointers] += np.uint64(address - LINE)
    return moved


class _Parts:
    """Pieces of the block that is to be."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self.held: list[Tensor] = []
        self._rows: list[tuple[int, ...]] = []
        self._end = 0

    @property
    def size(self) -> int:
        """Bytes of the whole; one at least."""
        return max(1, self._end)

    def tensors(self) -> Table:
        """What goes where: of TENSOR, places counted from the block's begin."""
        return np.array(self._rows, TENSOR)

    def add_matrix(self, record: Any, name: str, matrix: Tensor) -> None:
        to = self._take(packed_numbers(*matrix.shape) * self._dtype.itemsize)
        record[name], scale = LINE + to, 0
        if self._dtype == torch.int16:
            scale = self._take(4 * whole(len(matrix)))
            record[name + "_scale"] = LINE + scale
        self._add(matrix, to, self._dtype, scale, packed=True)

    def add_apart(self, tensor: Tensor) -> None:
        """As float32, to another place than the block."""
        self._add(tensor.reshape(1, -1), 0, torch.float32)

    def add_numbers(self, record: Any, name: str, numbers: Tensor) -> None:
        """As float32."""
        to = self._take(4 * numbers.numel())
        self._add(numbers.reshape(1, -1), to, torch.float32)
        record[name] = LINE + to

    def _take(self, size: int) -> int:
        """Where the next `size` bytes are."""
        begin = self._end
        self._end += -(-size // LINE) * LINE
        return begin

    def _add(self, tensor: Tensor, to: int, wanted: torch.dtype, scale: int = 0, packed: bool = False) -> None:
        own = tensor.contiguous()
        self.held.append(own)
        self._rows.append((own.data_ptr(), to, scale, 0, *own.shape, TYPES[own.dtype], TYPES[wanted], packed))


def _put_bottleneck(parts: _Parts, record: Any, block: Bottleneck) -> None:
    width = whole(len(block.down))
    parts.add_matrix(record, "down", block.down)
    parts.add_matrix(record, "up", _wider(block.up, width))
    parts.add_numbers(record, "down_bias", _wider(block.down_bias, width))
    parts.add_numbers(record, "up_bias", block.up_bias)
    record["width"] = width
    record["activation"] = ACTIVATIONS.index(block.activation)
    record["beside"] = block.beside


def _put_norm(parts: _Parts, record: Any, norm: Norm) -> None:
    parts.add_numbers(record, "gain", norm.gain)
    parts.add_numbers(record, "shift", norm.bias)


def _put_low_rank(parts: _Parts, record: Any, part: LowRank) -> None:
    rank = whole(len(part.down))
    parts.add_matrix(record, "down", part.down)
    parts.add_matrix(record, "up", _wider(part.up, rank))
    record["rank"], record["out"] = rank, len(part.up)


def _put_prefix(parts: _Parts, record: Any, prefix: Prefix) -> None:
    parts.add_numbers(record, "keys", prefix.keys)
    parts.add_numbers(record, "values", prefix.values)
    record["length"] = prefix.keys.shape[1]


def _wider(tensor: Tensor, width: int) -> Tensor:
    """With zeros behind, up to `width` numbers in a row."""
    missing = width - tensor.shape[-1]
    return F.pad(tensor, (0, missing)) if missing else tensor
