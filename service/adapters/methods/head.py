"""Feature-based transfer: the encoder stays as it is and only the head is trained (χ_v∘φ_w of the paper)."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from service.adapters.methods.base import BARE, Adaptation, Dims, Method, Norm, Place, Shape, Tensors


class Head(Method):
    """No tensors of its own: rows of this method share the bare base's pass."""

    name: Literal["head"] = "head"

    def shapes(self, dims: Dims) -> dict[str, Shape]:
        return {}

    def initial(
        self, dims: Dims, norms: Mapping[tuple[int, Place], Norm], generator: torch.Generator
    ) -> dict[str, Tensor]:
        return {}

    def adapt(self, dims: Dims, tensors: Tensors, dtype: torch.dtype) -> Adaptation:
        return BARE
