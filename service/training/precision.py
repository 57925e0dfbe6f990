"""In which precision a training does its maths."""

import torch

from service.engine.layout import check_integers, fastest
from service.engine.weights import Weights
from service.errors import BadBase


def training_dtype(asked: str, weights: Weights, full: bool) -> torch.dtype:
    """Of the base's linear layers; what is trained stays in float32.

    Args:
        asked: "float32", "bfloat16", "int16", or "auto": the fastest here that costs rounding alone.
        full: whether the base is trained too.

    Raises:
        BadBase: the base cannot be laid out in what is asked.
    """
    if asked == "int16":
        try:
            check_integers(asked, weights)
        except ValueError as error:
            raise BadBase(str(error)) from None
    found: torch.dtype = getattr(torch, fastest(weights, frozen=not full) if asked == "auto" else asked)
    return found
