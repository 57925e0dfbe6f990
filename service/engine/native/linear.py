"""Linear layers of the frozen base, packed for the kernels, in float32, bfloat16 or integers.

Integers: a token's vector, as it comes, lies in steps from its least number to its largest; a row of weights in the
finest steps that its largest allows, and sums of products that 32 bits hold. Biases, and all that is not a linear layer
of the base, stay as they are.
"""

from ctypes import Structure, addressof, c_int64, c_void_p
from typing import NamedTuple, Self

import torch
from torch import Tensor

from service.engine.native.binding import NAMES, available, call, integers, pack, packed_numbers
from service.engine.weights import Activation, AnyLinear

ACTIVATIONS = ("none", "gelu", "gelu_tanh", "relu", "swish", "tanh")  # a kernel's number for it is its place


class SeenLinear(Structure):
    _fields_ = (
        ("packed", c_void_p), ("bias", c_void_p), ("scale", c_void_p), ("total", c_void_p),
        ("n", c_int64), ("k", c_int64),
    )  # fmt: skip


class NativeLinear(NamedTuple):
    packed: Tensor
    bias: Tensor  # [out], float32
    scale: Tensor | None  # [out]: integers alone, what one step of a weight is worth
    total: Tensor | None  # [out]: integers alone, the sum of the row's weights
    shape: tuple[int, int]  # (out, in)
    dtype: torch.dtype  # of token vectors
    seen: SeenLinear  # the same as a kernel sees it

    @classmethod
    def of(cls, linear: AnyLinear, precision: str, dtype: torch.dtype) -> Self:
        """Packs a layer that is still in float32.

        Raises:
            ValueError: the processor has no such precision.
        """
        if not available(precision):
            raise ValueError(f"there is no {precision} on this processor")
        weight, scale, total = linear.weight, None, None
        bias = torch.zeros(len(weight)) if linear.bias is None else linear.bias.float().contiguous()
        if precision in NAMES.values():
            weight = weight.to(dtype)
        else:
            weight, scale = _in_steps(weight)
            total, weight = weight.sum(dim=1), weight.to(integers().dtype)
        packed = torch.empty(packed_numbers(*weight.shape), dtype=weight.dtype)
        pack(weight.contiguous(), packed.data_ptr())
        addresses = (tensor.data_ptr() if tensor is not None else None for tensor in (packed, bias, scale, total))
        n, k = weight.shape
        return cls(packed, bias, scale, total, (n, k), dtype, SeenLinear(*addresses, n, k))

    @property
    def weight(self) -> Tensor:
        raise NotImplementedError("packed weights are read by the kernels alone")

    def __call__(self, x: Tensor) -> Tensor:
        return self._run(x, "none")

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        return self._run(x, activation.name)

    def _run(self, x: Tensor, activation: str) -> Tensor:
        y = x.new_empty(len(x), self.shape[0])
        number = ACTIVATIONS.index(activation)
        call(f"linear_{NAMES[self.dtype]}", addressof(self.seen), number, x.data_ptr(), y.data_ptr(), len(x))
        return y


def _in_steps(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix [n, k] as integers, and what one step of each row is worth, [n]."""
    size, kept = weight.abs(), integers()
    largest = torch.iinfo(kept.dtype).max
    largest_sum = (2**31 - 1) // kept.steps - weight.shape[1]  # each number may become larger by rounding
    scale = torch.maximum(size.amax(dim=1) / largest, size.sum(dim=1) / largest_sum)
    scale.clamp_(min=torch.finfo(torch.float32).tiny)
    return (weight / scale[:, None]).round_(), scale
