"""In which precision the linear layers of the base run, and how they lie in memory for it.

| | |
|---|---|
| AVX-512 | our own kernels, in each precision that the processor multiplies itself (`native`) |
| AMX | oneDNN through torch, in bfloat16: its tiles multiply faster than any vector |
| any other | oneDNN through torch, in float32 or bfloat16 |
"""

import torch

from service.engine import native
from service.engine.prepacked import prepacked
from service.engine.weights import Weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}  # of token vectors
PRECISIONS = (*DTYPES, "int8")


def chosen(asked: str, weights: Weights, serving: bool) -> str:
    """The precision to run in, where "auto" leaves it to us.

    Raises:
        ValueError: there is no such precision, or not here; says why.
    """
    if asked == "auto":
        return "bfloat16" if serving and (_has("avx512_bf16") or _has("amx_bf16")) else "float32"
    if asked not in PRECISIONS:
        raise ValueError(f"dtype {asked} is not known; choose one of auto, {', '.join(PRECISIONS)}")
    if asked == "int8":
        if not serving:
            raise ValueError("dtype int8 is for serving; training takes float32 or bfloat16")
        if not native.available("int8"):
            raise ValueError("dtype int8 needs a processor with AVX-512 VNNI, and the kernels built (README, Install)")
        if not native.fits(weights):
            raise ValueError(f"dtype int8 needs sizes that are multiples of 16; this base has {weights.dims}")
    return asked


def laid_out(weights: Weights, precision: str) -> Weights:
    """The same base, whose weights are in float32, for serving in this precision on this processor."""
    dtype = DTYPES.get(precision, torch.bfloat16 if native.available("bfloat16") else torch.float32)
    by_tiles = precision == "bfloat16" and _has("amx_bf16")
    if native.available(precision) and native.fits(weights) and not by_tiles:
        return native.packed_weights(weights, precision, dtype)
    return prepacked(weights.to(dtype))


def _has(feature: str) -> bool:
    return bool(torch.cpu.get_capabilities().get(feature))
