"""In which precision the linear layers of the base run, and how base and adapters lie in memory for it.

| | |
|---|---|
| AVX-512 | our own kernels, in each precision that the processor multiplies itself (`native`) |
| AVX2 | our own kernels, in float32 and int16; bfloat16 is multiplied as float32, and so saves memory alone |
| AMX | oneDNN through torch, in bfloat16: its tiles multiply faster than any vector |
| any other processor | oneDNN through torch, in float32 or bfloat16 |
| CUDA | torch, in bfloat16, float16 or float32 |

By torch, adapters are stacked in `slots`.
"""

import torch

from service.adapters.methods import Adaptation
from service.engine import native
from service.engine.device import CPU
from service.engine.native import NativeAdaptation
from service.engine.prepacked import prepacked
from service.engine.slots import Slots, Slotted
from service.engine.weights import Weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}  # of token vectors
INTEGERS = {
    "int8": "AVX-512 VNNI",
    "int16": "AVX-512 VNNI, or AVX2 without AVX-512",
}  # and what a processor needs for them
PRECISIONS = (*DTYPES, *INTEGERS)
WHY = {  # a precision is a processor's choice
    "bfloat16": "which this processor multiplies itself",
    "int16": "which this processor multiplies faster than float32, and sums exactly",
    "float32": "as this processor has no bfloat16 that is faster",
}

AnyAdaptation = Adaptation | NativeAdaptation | Slotted


def chosen(asked: str, weights: Weights, serving: bool, device: torch.device = CPU) -> str:
    """The precision to run in, where "auto" leaves it to us.

    Raises:
        ValueError: there is no such precision, or not here; says why.
    """
    if asked == "auto":
        if not serving:
            return "float32"
        return "bfloat16" if device.type == "cuda" else fastest(weights)
    if asked not in PRECISIONS:
        raise ValueError(f"dtype {asked} is not known; choose one of auto, {', '.join(PRECISIONS)}")
    if asked == "float16" and device.type != "cuda":
        raise ValueError("dtype float16 is for device cuda; a processor takes float32, bfloat16, int8 or int16")
    if asked in INTEGERS:
        if not serving:
            raise ValueError(f"a base in {asked} is for serving; for training it is loaded in float32 or bfloat16")
        if device.type == "cuda":
            raise ValueError(f"dtype {asked} is for processors; device cuda takes bfloat16, float16 or float32")
        check_integers(asked, weights)
    return asked


def fastest(weights: Weights, frozen: bool = True) -> str:
    """The precision in which this processor multiplies fastest, of those that cost rounding alone.

    Args:
        frozen: whether the weights stay as they are; integers are for those that do.
    """
    if _has("amx_bf16"):
        return "bfloat16"
    if frozen and native.available("int16") and native.fits(weights):
        return "int16"
    # By rule of thumb: Intel's vectors, so far those with float16, multiply bfloat16 at half of float32's speed, AMD's
    # at twice that.
    return "bfloat16" if multiplies_bfloat16() and not _has("avx512_fp16") else "float32"


def check_integers(asked: str, weights: Weights) -> None:
    """Whether a base can be laid out in them here.

    Args:
        asked: a key of `INTEGERS`.

    Raises:
        ValueError: it cannot; says why.
    """
    if not native.available(asked):
        raise ValueError(
            f"dtype {asked} needs a processor with {INTEGERS[asked]}, and the kernels, built by make setup"
        )
    if not native.fits(weights):
        raise ValueError(f"dtype {asked} needs sizes that are multiples of 16; this base has {weights.dims}")


def why(precision: str, device: torch.device = CPU) -> str:
    """Why "auto" serves in this precision."""
    if device.type == "cuda":
        return "which the GPU multiplies itself"
    faster = precision == "int16" and native.available("int8")
    return WHY[precision] + ("; int8 is faster, and less exact" if faster else "")


def laid_out(weights: Weights, precision: str, device: torch.device = CPU) -> Weights:
    """The same base, whose weights are in float32, for serving in this precision on this device."""
    if device.type == "cuda":
        dtype = DTYPES[precision]
        return weights.on(device, dtype)._replace(slots=Slots(device, dtype))
    dtype = torch.bfloat16 if precision == "int8" and multiplies_bfloat16() else DTYPES.get(precision, torch.float32)
    by_tiles = precision == "bfloat16" and _has("amx_bf16")
    if native.available(precision) and native.fits(weights) and not by_tiles:
        return native.packed_weights(weights, precision, dtype)
    return prepacked(weights.to(dtype))._replace(slots=Slots(device, dtype))


def placed(weights: Weights, adaptation: Adaptation) -> AnyAdaptation:
    """An adapter as the layout of its base has it.

    Where that is one for serving, tensors may have any dtype, and nothing that comes out refers to them.
    """
    if weights.native is not None:
        return native.packed_adaptation(adaptation, weights.dims, weights.native.matrices, weights.native.blocks)
    if weights.slots is not None:
        found: AnyAdaptation = weights.slots.place(adaptation)
        return found
    return adaptation


def multiplies_bfloat16() -> bool:
    """Whether this processor does; elsewhere it is emulated."""
    return _has("avx512_bf16") or _has("amx_bf16")


def _has(feature: str) -> bool:
    return bool(torch.cpu.get_capabilities().get(feature))
