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
    Norms,
    Place,
    Prefix,
    Shape,
    Site,
    Tensors,
)
from service.adapters.methods.bottleneck import Houlsby, Parallel, Pfeiffer
from service.adapters.methods.head import Head
from service.adapters.methods.lora import Lora
from service.adapters.methods.prefix import PrefixTuning

METHODS: dict[str, type[Method]] = {
    method.model_fields["name"].default: method for method in (Houlsby, Pfeiffer, Parallel, Lora, PrefixTuning, Head)
}
AnyMethod = Annotated[Houlsby | Pfeiffer | Parallel | Lora | PrefixTuning | Head, Field(discriminator="name")]

__all__ = [
    "BARE",
    "METHODS",
    "PLACES",
    "Adaptation",
    "AnyMethod",
    "Dims",
    "Head",
    "Houlsby",
    "Lora",
    "Method",
    "Norm",
    "Norms",
    "Parallel",
    "Pfeiffer",
    "Place",
    "Prefix",
    "PrefixTuning",
    "Shape",
    "Site",
    "Tensors",
]
