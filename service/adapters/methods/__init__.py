"""The methods an adapter may be made with. A new one is a file here and a row in `AnyMethod`."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from service.adapters.methods.adaptation import (
    BARE,
    PLACES,
    TARGETS,
    Adaptation,
    Norm,
    Norms,
    Place,
    Prefix,
    Site,
    Target,
)
from service.adapters.methods.base import Dims, Method, Shape, Tensors
from service.adapters.methods.bottleneck import Houlsby, Parallel, Pfeiffer
from service.adapters.methods.head import Head
from service.adapters.methods.lora import Lora
from service.adapters.methods.prefix import PrefixTuning

METHODS: dict[str, type[Method]] = {
    method.model_fields["name"].default: method for method in (Houlsby, Pfeiffer, Parallel, Lora, PrefixTuning, Head)
}


def _beside_the_base(value: Any) -> Any:
    """Fine-tuning is a method of training only, so what it made is refused with the reason."""
    if isinstance(value, dict) and value.get("name") == "full":
        raise PydanticCustomError("full", "full fine-tuning changes the base itself, which all tasks share; not served")
    return value


AnyMethod = Annotated[
    Houlsby | Pfeiffer | Parallel | Lora | PrefixTuning | Head,
    Field(discriminator="name"),
    BeforeValidator(_beside_the_base),
]

__all__ = [
    "BARE",
    "METHODS",
    "PLACES",
    "TARGETS",
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
    "Target",
    "Tensors",
]
