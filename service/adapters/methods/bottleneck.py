"""Bottleneck adapters: a small two-layer network with an internal skip, put inside the layers.

Houlsby et al. 2019 (arXiv 1902.00751), sections 2 and 2.1: two a layer, each after the sub-layer's projection
and before the residual add; the LayerNorms that follow are trained per task. Pfeiffer et al. 2021 (arXiv 2005.00247)
keep only the one after the feed-forward sub-layer. He et al. 2022 (arXiv 2110.04366) let it run beside the feed-forward
sub-layer, on the same input.
"""

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.adapters.methods.adaptation import Activation, Adaptation, Bottleneck, Place
from service.adapters.methods.base import Dims, LayeredMethod, Shape, Tensors, in_dtype, near_zero

MAX_BOTTLENECK = 4096


class BottleneckMethod(LayeredMethod):
    """What the three have in common."""

    beside: ClassVar[bool] = False  # whether the bottleneck runs side by side with the sub-layer, on the same input

    bottleneck: Annotated[int, Field(ge=1, le=MAX_BOTTLENECK)] = 64
    activation: Activation = "gelu"
    norms: bool = Field(default=True, description="whether the LayerNorms of those layers are the task's own")
    init_scale: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = Field(
        default=1e-3, description="standard deviation of the start values, cut at two of them"
    )

    @abstractmethod
    def places(self) -> tuple[Place, ...]:
        """The sub-layers that get a bottleneck."""

    def layer_shapes(self, dims: Dims) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        for place in self.places():
            shapes[f"{place}.down.weight"] = (self.bottleneck, dims.hidden)
            shapes[f"{place}.down.bias"] = (self.bottleneck,)
            shapes[f"{place}.up.weight"] = (dims.hidden, self.bottleneck)
            shapes[f"{place}.up.bias"] = (dims.hidden,)
        return shapes

    def start(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        if name.endswith("weight"):
            near_zero(tensor, self.init_scale, generator)

    def adapt(self, dims: Dims, tensors: Tensors, dtype: torch.dtype | None) -> Adaptation:
        def block(site: str) -> Bottleneck:
            names = ("down.weight", "down.bias", "up.weight", "up.bias")
            down, down_bias, up, up_bias = (in_dtype(tensors[f"{site}.{name}"], dtype) for name in names)
            return Bottleneck(down, down_bias, up, up_bias, self.activation, self.beside)

        sites = [(layer, place) for layer in self.numbers(dims) for place in self.places()]
        blocks = {(layer, place): block(f"layers.{layer}.{place}") for layer, place in sites}
        return Adaptation(bottlenecks=blocks, norms=self.own_norms(dims, tensors))


class Houlsby(BottleneckMethod):
    """Two bottlenecks a layer."""

    name: Literal["houlsby"] = "houlsby"

    def places(self) -> tuple[Place, ...]:
        return ("attention", "ffn")


class Pfeiffer(BottleneckMethod):
    """One bottleneck a layer, after the feed-forward sub-layer."""

    name: Literal["pfeiffer"] = "pfeiffer"

    def places(self) -> tuple[Place, ...]:
        return ("ffn",)


class Parallel(BottleneckMethod):
    """One bottleneck a layer, beside the feed-forward sub-layer."""

    name: Literal["parallel"] = "parallel"
    beside: ClassVar[bool] = True

    def places(self) -> tuple[Place, ...]:
        return ("ffn",)
