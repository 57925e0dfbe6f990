"""A batch's groups in one forward pass, all of them in one call a step: no Python runs per task."""

from collections.abc import Sequence
from ctypes import Structure, addressof, c_int64, c_void_p
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.adapters.methods import PLACES, TARGETS, Norm, Place, Site
from service.engine.grouped import Group
from service.engine.native.adaptation import ALL_TARGETS, NOTHING, NativeAdaptation
from service.engine.native.library import NAMES, call
from service.engine.native.linear import NativeLinear
from service.engine.packing import Packed
from service.engine.weights import Activation, AnyLinear, Layer, Weights


class _Attention(Structure):
    _fields_ = (
        ("heads", c_int64), ("size", c_int64),
        ("added", c_void_p), ("added_stride", c_int64), ("middle", c_int64), ("free", c_int64),
    )  # fmt: skip


class NativeGroups:
    """Implements `Grouped` by the kernels of kernels.cpp."""

    def __init__(self, weights: Weights, batch: Packed, groups: Sequence[Group]) -> None:
        self._weights, self._batch = weights, batch
        self._name = NAMES[weights.dtype]
        self._kept = adaptations = [_native(group.adaptation) for group in groups]
        self._starts = np.array([*(group.tokens.start for group in groups), len(batch.ids)], dtype=np.int64)
        addresses = np.array([adaptation.addresses for adaptation in adaptations], dtype=np.uint64)
        self._sites, self._low_ranks, prefixes = np.ascontiguousarray(addresses.T)
        tables = [adaptation.low_ranks for adaptation in adaptations if adaptation.low_ranks is not None]
        self._changed = np.logical_or.reduce([table["down"] != 0 for table in tables]) if tables else None
        sizes = [group.rows.stop - group.rows.start for group in groups]
        self._prefixes = np.repeat(prefixes, sizes)
        self._has_prefixes = bool(self._prefixes.any())

    def linear(
        self, number: int, site: Site, linear: AnyLinear, x: Tensor, activation: Activation | None = None
    ) -> Tensor:
        assert isinstance(linear, NativeLinear)
        targets = self._targets(number, site)
        laid = x.new_zeros(len(x), linear.shape[0]) if targets else None
        for index in targets:
            assert laid is not None
            call(
                f"low_rank_{self._name}", number * len(ALL_TARGETS) + index,
                self._starts.ctypes.data, self._low_ranks.ctypes.data, len(self._low_ranks),
                x.data_ptr(), x.shape[1], laid.data_ptr(), laid.shape[1],
            )  # fmt: skip
        return linear.onto(laid, x, activation)

    def attend(self, number: int, layer: Layer, qkv: Tensor) -> Tensor:
        out = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        how = _Attention(heads=self._weights.heads, size=out.shape[1] // self._weights.heads)
        if layer.distances is not None:
            added = layer.distances.added
            how.added, how.middle, how.free = added.data_ptr(), added.shape[1] // 2, layer.distances.free
            how.added_stride = added.shape[1] if len(added) > 1 else 0
        call(
            f"attend_{self._name}", addressof(how), number, qkv.data_ptr(), out.data_ptr(),
            self._batch.starts.ctypes.data, len(self._batch.starts) - 1,
            self._prefixes.ctypes.data if self._has_prefixes else None,
        )  # fmt: skip
        return out

    def close(
        self, number: int, place: Place, own: Norm, stream: Tensor, entered: Tensor, projected: Tensor
    ) -> tuple[Tensor, Tensor]:
        out = torch.empty_like(projected)
        sums = torch.empty_like(projected) if self._weights.norm_first else None
        call(
            f"close_{self._name}", own.gain.data_ptr(), own.bias.data_ptr(), self._weights.norm_eps, out.shape[1],
            number * len(PLACES) + PLACES.index(place),
            self._starts.ctypes.data, self._sites.ctypes.data, len(self._sites),
            stream.data_ptr(), entered.data_ptr(), projected.data_ptr(),
            sums.data_ptr() if sums is not None else None, out.data_ptr(),
        )  # fmt: skip
        return out if sums is None else sums, out

    def _targets(self, number: int, site: Site) -> list[int]:
        """The places in a table of what some adapter changes in this linear layer."""
        if self._changed is None:
            return []
        wanted = (ALL_TARGETS.index(target) for target in TARGETS[site])
        return [index for index in wanted if self._changed[number, index]]


def _native(adaptation: Any) -> NativeAdaptation:
    return adaptation if isinstance(adaptation, NativeAdaptation) else NOTHING  # the trunk's is bare
