"""Linear layers of the frozen base, packed for the kernels, in float32, bfloat16 or int8.

int8: a row of weights is worth its largest number over 127, and a token's vector, as it comes, likewise. Products are
summed exactly; biases, and all that is not a linear layer of the base, stay as they are.
"""

from ctypes import Structure, addressof, c_int64, c_void_p
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from service.engine.native.library import LANES, call, pack, packed_numbers
from service.engine.weights import Activation, AnyLinear, Weights

ACTIVATIONS = ("none", "gelu", "gelu_tanh", "relu", "swish", "tanh")  # a kernel's number for it is its place


class _Linear(Structure):
    _fields_ = (
        ("packed", c_void_p), ("bias", c_void_p), ("scale", c_void_p), ("centre", c_void_p),
        ("n", c_int64), ("k", c_int64),
    )  # fmt: skip


class NativeLinear(NamedTuple):
    packed: Tensor
    bias: Tensor | None  # [out], float32
    scale: Tensor | None  # [out]: int8 alone, what one step of a weight is worth
    centre: Tensor | None  # [out]: int8 alone, 128 times the sum of the row's weights, for tokens are bytes around 128
    shape: tuple[int, int]  # (out, in)
    dtype: torch.dtype  # of token vectors
    seen: Any  # the same as a kernel sees it

    @classmethod
    def of(cls, linear: AnyLinear, precision: str, dtype: torch.dtype) -> Self:
        """Packs a layer that is still in float32."""
        weight, scale, centre = linear.weight, None, None
        bias = linear.bias.float().contiguous() if linear.bias is not None else None
        if precision == "int8":
            scale = weight.abs().amax(dim=1).div_(127).clamp_(min=torch.finfo(torch.float32).tiny)
            weight = (weight / scale[:, None]).round_().to(torch.int8)
            centre = weight.sum(dim=1, dtype=torch.float32).mul_(128)
        else:
            weight = weight.to(dtype)
        packed = torch.empty(packed_numbers(*weight.shape), dtype=weight.dtype)
        pack(weight, packed)
        addresses = (tensor.data_ptr() if tensor is not None else None for tensor in (packed, bias, scale, centre))
        n, k = weight.shape
        return cls(packed, bias, scale, centre, (n, k), dtype, _Linear(*addresses, n, k))

    @property
    def weight(self) -> Tensor:
        raise NotImplementedError("packed weights are read by the kernels alone")

    def __call__(self, x: Tensor) -> Tensor:
        return self.onto(None, x)

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        return self.onto(None, x, activation)

    def onto(self, laid: Tensor | None, x: Tensor, activation: Activation | None = None) -> Tensor:
        """What the layer makes of `x`, plus what was laid down for it [tokens, out]; the sum is written over that."""
        y = x.new_empty(len(x), self.shape[0]) if laid is None else laid
        name = "float32" if self.dtype == torch.float32 else "bfloat16"
        number = ACTIVATIONS.index("none" if activation is None else activation.name)
        call(f"linear_{name}", addressof(self.seen), number, laid is not None, x.data_ptr(), y.data_ptr(), len(x))
        return y


def fits(weights: Weights) -> bool:
    """Whether all sizes are multiples of what the kernels compute at once."""
    dims = weights.dims
    return dims.hidden % LANES == 0 and dims.inner % LANES == 0


def packed_weights(weights: Weights, precision: str, dtype: torch.dtype) -> Weights:
    """The same base, still in float32, with its linear layers packed; it cannot be trained then."""
    return weights.with_linears(lambda linear: NativeLinear.of(linear, precision, dtype))._replace(native=True)
