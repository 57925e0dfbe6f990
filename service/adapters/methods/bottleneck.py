"""Bottleneck adapters: a small two-layer network with an internal skip, put inside every layer.

Houlsby et al. 2019 (arXiv 1902.00751), sections 2 and 2.1: two a layer, each after the sub-layer's projection
and before the residual add; the LayerNorms that follow are trained per task.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from service.adapters.methods.base import PLACES, Adaptation, Dims, Method, Norm, Place, Shape, Tensors

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


class BottleneckAdaptation(Adaptation):
    def __init__(
        self,
        blocks: Mapping[tuple[int, Place], Bottleneck],
        norms: Mapping[tuple[int, Place], Norm],
        activation: Callable[[Tensor], Tensor],
    ) -> None:
        self._blocks = blocks
        self._norms = norms
        self._activation = activation

    def after_projection(self, layer: int, place: Place, projected: Tensor) -> Tensor:
        block = self._blocks.get((layer, place))
        if block is None:
            return projected
        inner = self._activation(F.linear(projected, block.down, block.down_bias))  # [tokens, m]
        return projected + F.linear(inner, block.up, block.up_bias)

    def norm(self, layer: int, place: Place, own: Norm) -> Norm:
        return self._norms.get((layer, place), own)

    @property
    def nbytes(self) -> int:
        parts = (*self._blocks.values(), *self._norms.values())
        return sum(tensor.nbytes for part in parts for tensor in part)


class Houlsby(Method):
    """Two bottlenecks a layer, with the task's own LayerNorms."""

    name: Literal["houlsby"] = "houlsby"
    bottleneck: Annotated[int, Field(ge=1, le=MAX_BOTTLENECK)] = 64
    activation: Activation = "gelu"
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None,
        max_length=1000,
        description="which layers carry adapters, counted from 0; all of them when left out",
    )
    norms: bool = Field(default=True, description="whether the LayerNorms of those layers are the task's own")
    init_scale: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = Field(
        default=1e-3, description="standard deviation of the start values, cut at two of them"
    )

    def check(self, dims: Dims) -> str | None:
        if self.layers is None:
            return None
        if len(set(self.layers)) != len(self.layers):
            return f"method.layers names a layer twice: {list(self.layers)}"
        beyond = [layer for layer in self.layers if layer >= dims.layers]
        return f"method.layers names {beyond}, but the base has layers 0 to {dims.layers - 1}" if beyond else None

    def _sites(self, dims: Dims) -> list[tuple[int, Place]]:
        layers = range(dims.layers) if self.layers is None else self.layers
        return [(layer, place) for layer in layers for place in PLACES]

    def shapes(self, dims: Dims) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        for layer, place in self._sites(dims):
            site = f"layers.{layer}.{place}"
            shapes[f"{site}.down.weight"] = (self.bottleneck, dims.hidden)
            shapes[f"{site}.down.bias"] = (self.bottleneck,)
            shapes[f"{site}.up.weight"] = (dims.hidden, self.bottleneck)
            shapes[f"{site}.up.bias"] = (dims.hidden,)
            if self.norms:
                shapes[f"{site}.norm.weight"] = (dims.hidden,)
                shapes[f"{site}.norm.bias"] = (dims.hidden,)
        return shapes

    def initial(
        self, dims: Dims, norms: Mapping[tuple[int, Place], Norm], generator: torch.Generator
    ) -> dict[str, Tensor]:
        tensors = {name: torch.zeros(shape) for name, shape in self.shapes(dims).items()}
        for layer, place in self._sites(dims):
            site = f"layers.{layer}.{place}"
            for matrix in ("down", "up"):
                # Truncated normal, section 2.1: near zero, so that ψ_{w,v₀} ≈ φ_w.
                torch.nn.init.trunc_normal_(
                    tensors[f"{site}.{matrix}.weight"],
                    std=self.init_scale,
                    a=-2 * self.init_scale,
                    b=2 * self.init_scale,
                    generator=generator,
                )
            if self.norms:
                tensors[f"{site}.norm.weight"] = norms[layer, place].gain.detach().clone()
                tensors[f"{site}.norm.bias"] = norms[layer, place].bias.detach().clone()
        return tensors

    def adapt(self, dims: Dims, tensors: Tensors, dtype: torch.dtype) -> Adaptation:
        blocks: dict[tuple[int, Place], Bottleneck] = {}
        norms: dict[tuple[int, Place], Norm] = {}
        for layer, place in self._sites(dims):
            site = f"layers.{layer}.{place}"
            names = ("down.weight", "down.bias", "up.weight", "up.bias")
            blocks[layer, place] = Bottleneck(*(tensors[f"{site}.{name}"].to(dtype) for name in names))
            if self.norms:
                norms[layer, place] = Norm(tensors[f"{site}.norm.weight"], tensors[f"{site}.norm.bias"])
        return BottleneckAdaptation(blocks, norms, ACTIVATIONS[self.activation])
