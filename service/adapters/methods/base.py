"""What a method is: a config that knows its tensors, and how they enter the frozen encoder."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from service.strict import Strict

Shape = tuple[int, ...]
Tensors = Mapping[str, Tensor]
Place = Literal["attention", "ffn"]
PLACES: tuple[Place, Place] = ("attention", "ffn")


class Dims(NamedTuple):
    """The sizes of a base model that decide an adapter's shapes."""

    layers: int
    hidden: int


class Norm(NamedTuple):
    """One LayerNorm's parameters."""

    gain: Tensor  # [hidden]
    bias: Tensor  # [hidden]


class Adaptation:
    """One adapter as the encoder sees it. This class is the bare base: every hook changes nothing."""

    def after_projection(self, layer: int, place: Place, projected: Tensor) -> Tensor:
        """Changes a sub-layer's output [tokens, hidden] before the residual is added."""
        return projected

    def norm(self, layer: int, place: Place, own: Norm) -> Norm:
        """The LayerNorm that ends the sub-layer: the base's `own`, or the task's."""
        return own

    @property
    def nbytes(self) -> int:
        """Memory held by the method's weights."""
        return 0


BARE = Adaptation()


class Method(Strict, ABC):
    """A way for v to enter w; an instance is one adapter's configuration, stored in its manifest."""

    @abstractmethod
    def shapes(self, dims: Dims) -> dict[str, Shape]:
        """Every tensor of the method (the head's are the kind's), by name."""

    @abstractmethod
    def initial(
        self, dims: Dims, norms: Mapping[tuple[int, Place], Norm], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Start values v₀ for which the adapted encoder is nearly the bare one.

        `norms` are the base's own LayerNorms, from which a method that trains them sets out.
        """

    @abstractmethod
    def adapt(self, dims: Dims, tensors: Tensors, dtype: torch.dtype) -> Adaptation:
        """Arranges the tensors for the forward pass: what is multiplied in `dtype`, norms as they are.

        Tensors that have their dtype already are referred to, not copied; gradients reach them either way.
        """

    def check(self, dims: Dims) -> str | None:
        """Why this config cannot be used with a base of these sizes, or None."""
        return None
