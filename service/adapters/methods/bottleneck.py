"""Bottleneck adapters: a small two-layer network with an internal skip, put inside the layers.

Houlsby et al. 2019 (arXiv 1902.00751), sections 2 and 2.1: two a layer, each after the sub-layer's projection
and before the residual add; the LayerNorms that follow are trained per task. Pfeiffer et al. 2021 (arXiv 2005.00247)
keep only the one after the feed-forward sub-layer. He et al. 2022 (arXiv 2110.04366) let it run beside the feed-forward
sub-layer, on the same input.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from service.adapters.methods.base import (
    Adaptation,
    Dims,
    LayeredAdaptation,
    LayeredMethod,
    Norms,
    Place,
    Shape,
    Tensors,
    near_zero,
)

Activation = Literal["gelu", "relu", "swish", "tanh"]
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "swish": F.silu,
    "tanh": torch.tanh,
}
MAX_BOTTLENECK = 4096


class Bottleneck(NamedTuple):
    """One adapter: 2md + d + m numbers for hidden size d and bottleneck m."""

    down: Tensor  # [m, d]
    down_bias: Tensor  # [m]
    up: Tensor  # [d, m]
    up_bias: Tensor  # [d]


Bottlenecks = Mapping[tuple[int, Place], Bottleneck]


class BottleneckAdaptation(LayeredAdaptation):
    """One after another: the bottleneck reads what the sub-layer made."""

    def __init__(self, blocks: Bottlenecks, norms: Norms, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__((layer for layer, _ in blocks), norms)
        self._blocks = blocks
        self._activation = activation

    def after_projection(self, layer: int, place: Place, entered: Tensor, projected: Tensor) -> Tensor:
        block = self._blocks.get((layer, place))
        if block is None:
            return projected
        return self._run(block, self._input(entered, projected)).add_(projected)

    def _input(self, entered: Tensor, projected: Tensor) -> Tensor:
        return projected

    def _run(self, block: Bottleneck, x: Tensor) -> Tensor:
        inner = self._activation(F.linear(x, block.down, block.down_bias))  # [tokens, m]
        return F.linear(inner, block.up, block.up_bias)

    @property
    def nbytes(self) -> int:
        return super().nbytes + sum(tensor.nbytes for block in self._blocks.values() for tensor in block)


class ParallelAdaptation(BottleneckAdaptation):
    """Side by side: the bottleneck reads what the sub-layer reads."""

    def _input(self, entered: Tensor, projected: Tensor) -> Tensor:
        return entered


class BottleneckMethod(LayeredMethod):
    """What the three have in common."""

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

    def adapt(self, dims: Dims, tensors: Tensors, dtype: torch.dtype) -> Adaptation:
        names = ("down.weight", "down.bias", "up.weight", "up.bias")
        blocks = {
            (layer, place): Bottleneck(*(tensors[f"layers.{layer}.{place}.{name}"].to(dtype) for name in names))
            for layer in self.numbers(dims)
            for place in self.places()
        }
        return self._arrange(blocks, self.own_norms(dims, tensors))

    def _arrange(self, blocks: Bottlenecks, norms: Norms) -> Adaptation:
        return BottleneckAdaptation(blocks, norms, ACTIVATIONS[self.activation])


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

    def places(self) -> tuple[Place, ...]:
        return ("ffn",)

    def _arrange(self, blocks: Bottlenecks, norms: Norms) -> Adaptation:
        return ParallelAdaptation(blocks, norms, ACTIVATIONS[self.activation])
