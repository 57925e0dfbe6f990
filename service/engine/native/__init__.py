"""Our own kernels, for AVX2 and AVX-512: packed linear layers, and all adapters of a batch in one call."""

from service.engine.native.adaptation import Mould, NativeAdaptation, packed_adaptation
from service.engine.native.binding import available, taken_threads
from service.engine.native.frozen import frozen_weights
from service.engine.native.linear import NativeLinear
from service.engine.native.model import fits, packed_weights, through
from service.engine.native.rows import embed, heads

__all__ = [
    "Mould", "NativeAdaptation", "NativeLinear", "available", "embed", "fits", "frozen_weights", "heads",
    "packed_adaptation", "packed_weights", "taken_threads", "through",
]  # fmt: skip
