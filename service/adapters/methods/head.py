"""Feature-based transfer: the encoder stays as it is and only the head is trained (χ_v∘φ_w of the paper).

With `norms`, the LayerNorms are trained as well: the paper's smallest way of tuning (section 3.5).
"""

from typing import Literal

import torch
from torch import Tensor

from service.adapters.methods.adaptation import BARE, Adaptation
from service.adapters.methods.base import Dims, LayeredMethod, Shape, Tensors


class Head(LayeredMethod):
    """Without `norms` no tensors of its own: rows of this method share the bare base's pass."""

    name: Literal["head"] = "head"

    def layer_shapes(self, dims: Dims) -> dict[str, Shape]:
        return {}

    def start(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        raise NotImplementedError  # there is nothing to start

    def adapt(self, dims: Dims, tensors: Tensors, dtype: torch.dtype | None) -> Adaptation:
        return Adaptation(norms=self.own_norms(dims, tensors)) if self.norms else BARE
