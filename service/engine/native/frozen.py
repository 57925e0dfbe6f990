"""Linear layers of the frozen base in int16, for training what stands beside them: there, and gradients back."""

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from service.engine.native.linear import NativeLinear
from service.engine.weights import Activation, AnyLinear, Linear, Weights


class FrozenLinear(NamedTuple):
    there: NativeLinear
    back: NativeLinear  # of the transposed matrix: from the gradient of what the layer made to that of what it read

    @property
    def weight(self) -> Tensor:
        return self.there.weight

    @property
    def bias(self) -> Tensor | None:
        return self.there.bias

    @property
    def shape(self) -> tuple[int, int]:
        return self.there.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.there.dtype

    @classmethod
    def of(cls, linear: AnyLinear, precision: str) -> Self:
        """Packs a layer that is still in float32.

        Raises:
            ValueError: the processor has no such precision.
        """
        transposed = Linear(linear.weight.t().contiguous(), None)
        there, back = (NativeLinear.of(one, precision, torch.float32) for one in (linear, transposed))
        return cls(there, back)

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return y

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        return activation.function(self(x))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, linear: FrozenLinear) -> Tensor:
        context.linear = linear
        return linear.there(x.contiguous())

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return context.linear.back(gradient.contiguous()), None


def frozen_weights(weights: Weights) -> Weights:
    """The same base, in float32 so far, with its linear layers packed in int16.

    Raises:
        ValueError: the processor has none.
    """
    return weights.with_linears(lambda linear: FrozenLinear.of(linear, "int16"))
