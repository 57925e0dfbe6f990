"""Linear layers of the frozen base, packed for the kernels, in float32, bfloat16 or integers.

Integers: a token's vector, as it comes, lies in 255 steps from its least number to its largest (int8), or in 4,095 on
either side of zero up to its largest (int16); a row of weights in the finest steps that its largest allows, and sums of
products that 32 bits hold. Adapters beside either are in int16. Biases, and all else of the base, stay as they are.
"""

from ctypes import Structure, addressof, c_int64, c_void_p
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from service.engine.native.binding import INTEGERS, NAMES, available, call
from service.engine.native.laying import TENSOR, TYPES, lay, packed_numbers, whole
from service.engine.weights import Activation, AnyLinear

ACTIVATIONS = ("none", "gelu", "gelu_tanh", "relu", "swish", "tanh")  # a kernel's number for it is its place


class SeenLinear(Structure):
    _fields_ = (
        ("packed", c_void_p), ("scale", c_void_p), ("total", c_void_p), ("bias", c_void_p),
        ("n", c_int64), ("k", c_int64), ("bytes", c_int64),
    )  # fmt: skip


class NativeLinear(NamedTuple):
    packed: Tensor
    bias: Tensor  # [out], float32
    scale: Tensor | None  # of integers, [out] and up to a multiple of 16: what one step of a weight is worth
    total: Tensor | None  # of int8, likewise: the sum of the row's weights
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
        weight = linear.weight.float().contiguous()
        n, k = weight.shape
        bias = torch.zeros(n) if linear.bias is None else linear.bias.float().contiguous()
        kept = INTEGERS.get(precision, dtype)
        packed = torch.empty(packed_numbers(n, k), dtype=kept)
        scale = torch.empty(whole(n)) if precision in INTEGERS else None
        total = torch.empty(whole(n)) if precision == "int8" else None
        places = [tensor.data_ptr() if tensor is not None else 0 for tensor in (packed, scale, total)]
        lay(np.array([(weight.data_ptr(), *places, n, k, TYPES[weight.dtype], TYPES[kept], True)], TENSOR))
        seen = SeenLinear(*places, bias.data_ptr(), n, k, kept.itemsize)
        return cls(packed, bias, scale, total, (n, k), dtype, seen)

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
