"""Prefix tuning: trained keys and values that every token attends to (Li and Liang 2021, arXiv 2101.00190).

In every layer, without positions of their own, as P-Tuning v2 (arXiv 2110.07602) does it for encoders.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.adapters.methods.adaptation import Adaptation, Prefix
from service.adapters.methods.base import Dims, LayeredMethod, Shape, Tensors, near_zero


class PrefixTuning(LayeredMethod):
    """Keys and values before each row, in all layers. Its start is near the base only in that the prefix is short."""

    name: Literal["prefix"] = "prefix"
    layers: None = None
    length: Annotated[int, Field(ge=1, le=512)] = 16
    init_scale: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 0.02

    def layer_shapes(self, dims: Dims) -> dict[str, Shape]:
        return {"prefix.key": (self.length, dims.hidden), "prefix.value": (self.length, dims.hidden)}

    def start(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        near_zero(tensor, self.init_scale, generator)

    def adapt(self, dims: Dims, tensors: Tensors, dtype: torch.dtype | None) -> Adaptation:
        def heads(tensor: Tensor) -> Tensor:  # in float32, as attention runs
            return tensor.float().view(self.length, dims.heads, -1).transpose(0, 1)

        prefixes = {
            layer: Prefix(heads(tensors[f"layers.{layer}.prefix.key"]), heads(tensors[f"layers.{layer}.prefix.value"]))
            for layer in self.numbers(dims)
        }
        return Adaptation(prefixes=prefixes, norms=self.own_norms(dims, tensors))
