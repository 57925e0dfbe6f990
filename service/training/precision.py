"""In which precision a training does its maths."""

import torch

from service.engine import native
from service.engine.layout import check_integers, multiplies_bfloat16
from service.engine.weights import Weights
from service.errors import BadBase


def training_dtype(asked: str, weights: Weights, full: bool) -> torch.dtype:
    """Of the base's linear layers; what is trained stays in float32.

    Args:
        asked: "float32", "bfloat16" or "int16", or "auto": the fastest here that costs rounding alone. torch emulates
            bfloat16 where the processor does not multiply it, slower than float32.
        full: whether the base is trained too.

    Raises:
        BadBase: it cannot be done in what is asked.
    """
    if asked == "auto":
        if multiplies_bfloat16():
            return torch.bfloat16
        return torch.int16 if not full and native.available("int16") and native.fits(weights) else torch.float32
    if asked == "int16":
        if full:
            raise BadBase("dtype int16 is for a base that stays as it is; fine-tuning takes float32 or bfloat16")
        try:
            check_integers(asked, weights)
        except ValueError as error:
            raise BadBase(str(error)) from None
    found: torch.dtype = getattr(torch, asked)
    return found
