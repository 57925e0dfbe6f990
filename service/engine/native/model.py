"""A base packed for the kernels, and its forward pass over a batch: one call, in which no Python runs."""

from collections.abc import Sequence
from ctypes import Array, Structure, addressof, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.adapters.methods import Norm
from service.engine.native.adaptation import NOTHING, NativeAdaptation
from service.engine.native.binding import INTEGERS, LANES, NAMES, call
from service.engine.native.linear import ACTIVATIONS, NativeLinear, SeenLinear
from service.engine.native.memory import Blocks
from service.engine.packing import Packed
from service.engine.weights import Layer, Weights


class _Norm(Structure):
    _fields_ = (("gain", c_void_p), ("shift", c_void_p))


class _Distances(Structure):
    _fields_ = (("added", c_void_p), ("stride", c_int64), ("middle", c_int64), ("free", c_int64))


class _Layer(Structure):
    _fields_ = (
        ("qkv", SeenLinear), ("attention_out", SeenLinear), ("ffn_in", SeenLinear), ("ffn_out", SeenLinear),
        ("attention_norm", _Norm), ("ffn_norm", _Norm), ("distances", _Distances), ("cos", c_void_p), ("sin", c_void_p),
    )  # fmt: skip


class _Model(Structure):
    _fields_ = (
        ("layers", c_void_p), ("heads", c_int64), ("hidden", c_int64), ("inner", c_int64), ("eps", c_float),
        ("activation", c_int32), ("gated", c_int32), ("norm_first", c_int32), ("room", c_int64),
    )  # fmt: skip


class _Batch(Structure):
    _fields_ = (
        ("tokens", c_int64), ("rows", c_int64), ("groups", c_int64), ("positions", c_void_p), ("row_starts", c_void_p),
        ("starts", c_void_p), ("sites", c_void_p), ("low_ranks", c_void_p), ("prefixes", c_void_p),
        ("changed", c_void_p),
    )  # fmt: skip


@dataclass(frozen=True)
class NativeModel:
    """A base as the kernels see it. What it points to is kept by the `Weights` that keep this."""

    seen: _Model
    layers: "Array[_Layer]"
    matrices: torch.dtype  # of its adapters
    blocks: Blocks  # for them


def fits(weights: Weights) -> bool:
    """Whether all sizes are multiples of what the kernels compute at once."""
    dims = weights.dims
    return dims.hidden % LANES == 0 and dims.inner % LANES == 0


def packed_weights(weights: Weights, precision: str, dtype: torch.dtype) -> Weights:
    """The same base, still in float32, with its linear layers packed; it cannot be trained then.

    Args:
        precision: of the linear layers, any that is `available`. Beside integers, adapters are in int16.
        dtype: of token vectors.
    """
    packed = weights.with_linears(lambda linear: NativeLinear.of(linear, precision, dtype))
    dims = weights.dims
    layers = (_Layer * dims.layers)(*(_seen(layer) for layer in packed.layers))
    activation = ACTIVATIONS.index(weights.activation.name)
    matrices = torch.int16 if precision in INTEGERS else dtype
    room = dims.hidden + max(4 * dims.hidden, dims.ffn_in + dims.gated * dims.inner)
    model = _Model(
        addressof(layers), dims.heads, dims.hidden, dims.inner, weights.norm_eps, activation, weights.gated,
        weights.norm_first, room,
    )  # fmt: skip
    return packed._replace(native=NativeModel(model, layers, matrices, Blocks()))


def through(
    weights: Weights, layers: range, batch: Packed, groups: Sequence[Any], stream: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Some layers of the base over a batch whose groups, `encoder.Group`s, cover every row once, in order.

    Args:
        stream: what sub-layers add to, [tokens, hidden].
        x: what they read, likewise. Both are written over.

    Returns:
        (stream, x)
    """
    model: NativeModel = weights.native
    if not weights.norm_first:
        stream = x
    elif stream is x:
        stream = x.clone()
    adaptations = [_native(group.adaptation) for group in groups]
    addresses = np.array([adaptation.addresses for adaptation in adaptations], dtype=np.uint64)
    sites, low_ranks, prefixes = np.ascontiguousarray(addresses.T)
    starts = np.array([*(group.tokens.start for group in groups), len(x)], dtype=np.int64)
    by_row = np.repeat(prefixes, [group.rows.stop - group.rows.start for group in groups])
    tables = [adaptation.low_ranks for adaptation in adaptations if adaptation.low_ranks is not None]
    changed = np.logical_or.reduce([table["down"] != 0 for table in tables]) if tables else None
    room = torch.empty(len(x) * model.seen.room, dtype=x.dtype)
    seen = _Batch(
        len(x), len(batch.starts) - 1, len(groups), batch.positions.data_ptr(), batch.starts.ctypes.data,
        starts.ctypes.data, sites.ctypes.data, low_ranks.ctypes.data, by_row.ctypes.data if by_row.any() else None,
        changed.ctypes.data if changed is not None else None,
    )  # fmt: skip
    call(
        f"through_{NAMES[x.dtype]}", addressof(model.seen), addressof(seen), layers.start, layers.stop,
        stream.data_ptr(), x.data_ptr(), room.data_ptr(),
    )  # fmt: skip
    return stream, x


def _seen(layer: Layer) -> _Layer:
    linears = (layer.qkv, layer.attention_out, layer.ffn_in, layer.ffn_out)
    seen = [linear.seen for linear in linears if isinstance(linear, NativeLinear)]
    norms = (_norm(norm) for norm in (layer.attention_norm, layer.ffn_norm))
    distances = _Distances()
    if layer.distances is not None:
        added = layer.distances.added
        stride = added.shape[1] if len(added) > 1 else 0
        distances = _Distances(added.data_ptr(), stride, added.shape[1] // 2, layer.distances.free)
    angles = (table.data_ptr() for table in layer.rotary) if layer.rotary is not None else (None, None)
    return _Layer(*seen, *norms, distances, *angles)


def _norm(norm: Norm) -> _Norm:
    return _Norm(norm.gain.data_ptr(), norm.bias.data_ptr())


def _native(adaptation: Any) -> NativeAdaptation:
    return adaptation if isinstance(adaptation, NativeAdaptation) else NOTHING  # the trunk's is bare
