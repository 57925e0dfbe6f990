"""An adapter packed for the kernels: one block of memory, and tables of where in it each layer's parts begin."""

from collections.abc import Iterator
from ctypes import memmove
from dataclasses import dataclass, field
from functools import cached_property
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from service.adapters.methods import PLACES, TARGETS, Adaptation, Dims
from service.adapters.methods.adaptation import Bottleneck, LowRank, Norm, Prefix
from service.engine.native.binding import LANES, pack, packed_numbers
from service.engine.native.linear import ACTIVATIONS

LINE = 64  # bytes: what each part begins at a multiple of
ALL_TARGETS = tuple(target for targets in TARGETS.values() for target in targets)
# The structs of kernels.cpp, a pointer as the number that it is.
SITE = np.dtype(
    [(name, np.uint64) for name in ("down", "up", "down_bias", "up_bias", "gain", "shift")]
    + [(name, np.int32) for name in ("width", "activation", "beside", "unused")]
)
LOW_RANK = np.dtype(
    [("down", np.uint64), ("up", np.uint64), ("rank", np.int32), ("out", np.int32), ("first", np.int64)]
)
PREFIX = np.dtype([("keys", np.uint64), ("values", np.uint64), ("length", np.int64)])
Table = NDArray[Any]
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


def packed_adaptation(adaptation: Adaptation, dims: Dims) -> NativeAdaptation:
    """Packs an adapter whose matrices have the dtype of the base's token vectors."""
    parts = _Parts()
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
    return NativeAdaptation(
        first_layer=adaptation.first_layer,
        prefix_length=adaptation.prefix_length,
        sites=sites if adaptation.bottlenecks or adaptation.norms else None,
        low_ranks=low_ranks if adaptation.low_ranks else None,
        prefixes=prefixes if adaptation.prefixes else None,
        memory=parts.lay_down(),
    )


class _Parts:
    """Pieces of the block that is to be: first all sizes, then the memory, then what each one holds."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Any, str, Tensor, bool]] = []  # (record, its field, what to hold, whether packed)

    def add(self, record: Any, name: str, tensor: Tensor, packed: bool = False) -> None:
        self._waiting.append((record, name, tensor.contiguous(), packed))

    def lay_down(self) -> Memory:
        """The block; every record's field is then the address of its piece."""
        sizes = list(self._sizes())
        # From the system itself, and given back to it: among what lives shortly, large blocks would leave holes behind.
        memory = np.frombuffer(mmap(-1, max(1, sum(sizes)), MAP_PRIVATE | MAP_ANONYMOUS), dtype=np.uint8)
        address = memory.ctypes.data
        for (record, name, tensor, packed), size in zip(self._waiting, sizes, strict=True):
            if packed:
                pack(tensor, address)
            else:
                memmove(address, tensor.data_ptr(), tensor.nbytes)
            record[name] = address
            address += size
        return memory

    def _sizes(self) -> Iterator[int]:
        for _, _, tensor, packed in self._waiting:
            size = packed_numbers(*tensor.shape) * tensor.itemsize if packed else tensor.nbytes
            yield -(-size // LINE) * LINE


def _put_bottleneck(parts: _Parts, record: Any, block: Bottleneck) -> None:
    width = _whole(len(block.down))
    parts.add(record, "down", block.down, packed=True)
    parts.add(record, "up", _wider(block.up, width), packed=True)
    parts.add(record, "down_bias", _wider(block.down_bias.float(), width))
    parts.add(record, "up_bias", block.up_bias.float())
    record["width"] = width
    record["activation"] = ACTIVATIONS.index(block.activation)
    record["beside"] = block.beside


def _put_norm(parts: _Parts, record: Any, norm: Norm) -> None:
    parts.add(record, "gain", norm.gain.float())
    parts.add(record, "shift", norm.bias.float())


def _put_low_rank(parts: _Parts, record: Any, part: LowRank) -> None:
    rank = _whole(len(part.down))
    parts.add(record, "down", part.down, packed=True)
    parts.add(record, "up", _wider(part.up, rank), packed=True)
    record["rank"], record["out"] = rank, len(part.up)


def _put_prefix(parts: _Parts, record: Any, prefix: Prefix) -> None:
    parts.add(record, "keys", prefix.keys.float())
    parts.add(record, "values", prefix.values.float())
    record["length"] = prefix.keys.shape[1]


def _whole(n: int) -> int:
    return -(-n // LANES) * LANES


def _wider(tensor: Tensor, width: int) -> Tensor:
    """With zeros behind, up to `width` numbers in a row."""
    missing = width - tensor.shape[-1]
    return F.pad(tensor, (0, missing)) if missing else tensor
