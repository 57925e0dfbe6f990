"""LoRA: a product of two thin matrices added to a frozen one (Hu et al. 2021, arXiv 2106.09685)."""

from math import sqrt
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.adapters.methods.adaptation import Adaptation, LowRank, Target
from service.adapters.methods.base import Dims, LayeredMethod, Shape, Tensors, in_dtype


class Lora(LayeredMethod):
    """Low-rank changes to any of a layer's linear layers; they start at zero."""

    name: Literal["lora"] = "lora"
    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    alpha: Annotated[float, Field(gt=0, le=1e4, allow_inf_nan=False)] = Field(
        default=32.0, description="the change is multiplied by alpha / rank"
    )
    targets: tuple[Target, ...] = Field(default=("query", "value"), min_length=1)

    def check(self, dims: Dims) -> str | None:
        if len(set(self.targets)) != len(self.targets):
            return f"method.targets names one twice: {list(self.targets)}"
        return super().check(dims)

    def layer_shapes(self, dims: Dims) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        for target in self.targets:
            wide = {"ffn_in": (dims.hidden, dims.ffn_in), "ffn_out": (dims.inner, dims.hidden)}
            into, out = wide.get(target, (dims.hidden, dims.hidden))
            shapes[f"{target}.down.weight"] = (self.rank, into)
            shapes[f"{target}.up.weight"] = (out, self.rank)
        return shapes

    def start(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        if ".down." in name:  # `up` stays zero
            bound = 1 / sqrt(tensor.shape[1])
            tensor.uniform_(-bound, bound, generator=generator)

    def adapt(self, dims: Dims, tensors: Tensors, dtype: torch.dtype | None) -> Adaptation:
        def part(site: str) -> LowRank:
            up = tensors[f"{site}.up.weight"].float() * (self.alpha / self.rank)
            return LowRank(in_dtype(tensors[f"{site}.down.weight"], dtype), in_dtype(up, dtype))

        sites = [(layer, target) for layer in self.numbers(dims) for target in self.targets]
        parts = {(layer, target): part(f"layers.{layer}.{target}") for layer, target in sites}
        return Adaptation(low_ranks=parts, norms=self.own_norms(dims, tensors))
