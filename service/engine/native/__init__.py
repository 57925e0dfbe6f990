"""Our own kernels for processors with AVX-512: packed linear layers, and all adapters of a batch in one call."""

from service.engine.native.adaptation import NativeAdaptation, packed_adaptation
from service.engine.native.groups import NativeGroups
from service.engine.native.library import available
from service.engine.native.linear import NativeLinear, fits, packed_weights

__all__ = [
    "NativeAdaptation", "NativeGroups", "NativeLinear", "available", "fits", "packed_adaptation", "packed_weights"
]  # fmt: skip
