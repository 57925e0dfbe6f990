"""What a method is: a config that knows its tensors, and how they enter the frozen encoder."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from service.adapters.methods.adaptation import PLACES, Adaptation, Norm, Norms, Place
from service.strict import Strict

Shape = tuple[int, ...]
Tensors = Mapping[str, Tensor]


class Dims(NamedTuple):
    """The sizes of a base model that decide an adapter's shapes."""

    layers: int
    hidden: int
    inner: int  # of the feed-forward sub-layer
    heads: int
    gated: bool = False  # whether that sub-layer first makes a gate as wide as `inner` too

    @property
    def ffn_in(self) -> int:
        """How many numbers the first linear layer of the feed-forward sub-layer puts out."""
        return 2 * self.inner if self.gated else self.inner


class Method(Strict, ABC):
    """A way for v to enter w; an instance is one adapter's configuration, stored in its manifest."""

    @abstractmethod
    def shapes(self, dims: Dims) -> dict[str, Shape]:
        """Every tensor of the method (the head's are the kind's), by name."""

    @abstractmethod
    def initial(self, dims: Dims, norms: Norms, generator: torch.Generator) -> dict[str, Tensor]:
        """Start values v₀ for which the adapted encoder is nearly the bare one.

        `norms` are the base's own LayerNorms, from which a method that trains them sets out.
        """

    @abstractmethod
    def adapt(self, dims: Dims, tensors: Tensors, dtype: torch.dtype | None) -> Adaptation:
        """Arranges the tensors for the forward pass: what is multiplied in `dtype`, norms as they are.

        Tensors that have their dtype already are referred to, not copied; gradients reach them either way. None: all
        have, for somebody else is to convert them.
        """

    def check(self, dims: Dims) -> str | None:
        """Why this config cannot be used with a base of these sizes, or None."""
        return None


class LayeredMethod(Method):
    """What the methods share that put something into layers: which layers, and those layers' LayerNorms.

    The norms that a method trains are those of the sub-layers in `places`.
    """

    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None, max_length=1000, description="which layers are adapted, counted from 0; all of them when left out"
    )
    norms: bool = Field(default=False, description="whether the LayerNorms of those layers are the task's own")

    def places(self) -> tuple[Place, ...]:
        return PLACES

    @abstractmethod
    def layer_shapes(self, dims: Dims) -> dict[str, Shape]:
        """The tensors of one layer, without the LayerNorms."""

    @abstractmethod
    def start(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        """Fills one tensor of `layer_shapes`, now zero, with its start value."""

    def check(self, dims: Dims) -> str | None:
        if self.layers is None:
            return None
        if len(set(self.layers)) != len(self.layers):
            return f"method.layers names a layer twice: {list(self.layers)}"
        beyond = [layer for layer in self.layers if layer >= dims.layers]
        return f"method.layers names {beyond}, but the base has layers 0 to {dims.layers - 1}" if beyond else None

    def numbers(self, dims: Dims) -> tuple[int, ...]:
        """The adapted layers."""
        return tuple(range(dims.layers)) if self.layers is None else self.layers

    def shapes(self, dims: Dims) -> dict[str, Shape]:
        shapes = {
            f"layers.{layer}.{name}": shape
            for layer in self.numbers(dims)
            for name, shape in self.layer_shapes(dims).items()
        }
        for layer, place in self._norm_sites(dims):
            shapes[f"layers.{layer}.{place}.norm.weight"] = (dims.hidden,)
            shapes[f"layers.{layer}.{place}.norm.bias"] = (dims.hidden,)
        return shapes

    def initial(self, dims: Dims, norms: Norms, generator: torch.Generator) -> dict[str, Tensor]:
        tensors = {name: torch.zeros(shape) for name, shape in self.shapes(dims).items()}
        for layer in self.numbers(dims):
            for name in self.layer_shapes(dims):
                self.start(name, tensors[f"layers.{layer}.{name}"], generator)
        for layer, place in self._norm_sites(dims):
            tensors[f"layers.{layer}.{place}.norm.weight"] = norms[layer, place].gain.detach().clone()
            tensors[f"layers.{layer}.{place}.norm.bias"] = norms[layer, place].bias.detach().clone()
        return tensors

    def own_norms(self, dims: Dims, tensors: Tensors) -> Norms:
        """The task's LayerNorms, if it has any."""
        return {
            (layer, place): Norm(
                tensors[f"layers.{layer}.{place}.norm.weight"], tensors[f"layers.{layer}.{place}.norm.bias"]
            )
            for layer, place in self._norm_sites(dims)
        }

    def _norm_sites(self, dims: Dims) -> list[tuple[int, Place]]:
        return [(layer, place) for layer in self.numbers(dims) for place in self.places()] if self.norms else []


def in_dtype(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """As `Method.adapt` takes a dtype."""
    return tensor if dtype is None else tensor.to(dtype)


def near_zero(tensor: Tensor, deviation: float, generator: torch.Generator) -> None:
    """Fills with a normal distribution cut at two deviations (Houlsby et al. 2019, section 3.6)."""
    torch.nn.init.trunc_normal_(tensor, std=deviation, a=-2 * deviation, b=2 * deviation, generator=generator)
