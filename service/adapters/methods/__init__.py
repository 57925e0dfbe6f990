"""The methods an adapter may be made with. A new one is a file here and a row in `AnyMethod`."""

from typing import Annotated

from pydantic import Field

from service.adapters.methods.base import (
    BARE,
    PLACES,
    Adaptation,
    Dims,
    Method,
    Norm,
    Place,
    Shape,
    Tensors,
)
from service.adapters.methods.bottleneck import Houlsby
from service.adapters.methods.head import Head

AnyMethod = Annotated[Houlsby | Head, Field(discriminator="name")]

__all__ = [
    "BARE",
    "PLACES",
    "Adaptation",
    "AnyMethod",
    "Dims",
    "Head",
    "Houlsby",
    "Method",
    "Norm",
    "Place",
    "Shape",
    "Tensors",
]
