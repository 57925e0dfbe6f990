"""Linear layers of the frozen base, laid out once as the processor multiplies them, their activation in the same pass.

oneDNN reads weights in blocks of its own; given them as they are, it would rearrange them in each call. The operators
are those that torch's compiler itself emits for a frozen linear layer on a CPU.
"""

from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from service.engine.weights import Activation, AnyLinear, Linear, Weights

ROWS = 2048  # tokens that the layout is best for; any number is right


class PrepackedLinear(NamedTuple):
    weight: Tensor  # [out, in], opaque
    bias: Tensor | None  # [out]

    @property
    def shape(self) -> tuple[int, int]:
        out, read = self.weight.shape
        return out, read

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    @classmethod
    def of(cls, linear: AnyLinear) -> Self:
        return cls(torch.ops.mkldnn._reorder_linear_weight(linear.weight, ROWS), linear.bias)

    def __call__(self, x: Tensor) -> Tensor:
        return self._run(x, "none", "none")

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        if activation.fused is None:
            return activation.function(self(x))
        return self._run(x, *activation.fused)

    def _run(self, x: Tensor, post: str, algorithm: str) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, post, [], algorithm)
        return found


def prepacked(weights: Weights) -> Weights:
    """The same base with its linear layers prepacked, where this processor's torch can; it cannot be trained then."""
    if not _available(weights.dtype):
        return weights
    return weights.with_linears(PrepackedLinear.of)


def _available(dtype: torch.dtype) -> bool:
    """Whether the operators are there and right, for this precision on this processor."""
    linear = Linear(torch.eye(16, dtype=dtype), torch.ones(16, dtype=dtype))
    x = torch.arange(32, dtype=dtype).view(2, 16)
    try:
        found = PrepackedLinear.of(linear).activated(x, Activation("relu", F.relu, ("relu", "")))
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(found, F.relu(linear(x)))
