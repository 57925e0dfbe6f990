"""What an adapter puts where: tensors by layer and place, and the maths of each on the tokens of its own rows.

Plain data first: the maths here runs one adapter in training and wherever no kernels were built, and the kernels of
`engine.native` read the same tensors. A new method is a new arrangement of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Place = Literal["attention", "ffn"]
PLACES: tuple[Place, Place] = ("attention", "ffn")
Site = Literal["qkv", "attention_out", "ffn_in", "ffn_out"]  # the linear layers of an encoder layer
Target = Literal["query", "key", "value", "attention_out", "ffn_in", "ffn_out"]
# One linear layer makes queries, keys and values; a low-rank change is to one of the three.
TARGETS: Mapping[Site, tuple[Target, ...]] = {
    "qkv": ("query", "key", "value"),
    "attention_out": ("attention_out",),
    "ffn_in": ("ffn_in",),
    "ffn_out": ("ffn_out",),
}
Activation = Literal["gelu", "gelu_tanh", "relu", "swish", "tanh"]
ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


class Norm(NamedTuple):
    """One LayerNorm's parameters."""

    gain: Tensor  # [hidden]
    bias: Tensor  # [hidden]


class Bottleneck(NamedTuple):
    """Two small linear layers: 2md + d + m numbers for hidden size d and bottleneck m."""

    down: Tensor  # [m, d]
    down_bias: Tensor  # [m]
    up: Tensor  # [d, m]
    up_bias: Tensor  # [d]
    activation: Activation
    beside: bool  # whether it reads what the sub-layer reads, and not what the sub-layer made of that


class LowRank(NamedTuple):
    """What is added to a frozen matrix: up · down."""

    down: Tensor  # [r, in]
    up: Tensor  # [out, r], the scale within


class Prefix(NamedTuple):
    """Keys and values that every token of a row attends to besides the row's own."""

    keys: Tensor  # [heads, length, hidden / heads]; of several rows [rows, ·]
    values: Tensor  # likewise


Norms = Mapping[tuple[int, Place], Norm]


@dataclass(frozen=True, eq=False)
class Adaptation:
    """One adapter as the encoder sees it; without tensors, the bare base."""

    bottlenecks: Mapping[tuple[int, Place], Bottleneck] = field(default_factory=dict)
    low_ranks: Mapping[tuple[int, Target], LowRank] = field(default_factory=dict)
    prefixes: Mapping[int, Prefix] = field(default_factory=dict)
    norms: Norms = field(default_factory=dict)  # the task's own, instead of the base's

    @cached_property
    def first_layer(self) -> int | None:
        """Below it, nothing is changed; None: nowhere."""
        sites = (*self.bottlenecks, *self.low_ranks, *self.norms)
        return min((*(layer for layer, _ in sites), *self.prefixes), default=None)

    @cached_property
    def prefix_length(self) -> int:
        return next((prefix.keys.shape[1] for prefix in self.prefixes.values()), 0)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors())

    def tensors(self) -> Iterator[Tensor]:
        for parts in (self.bottlenecks, self.low_ranks, self.prefixes, self.norms):
            for part in parts.values():
                yield from (tensor for tensor in part if isinstance(tensor, Tensor))

    def changes(self, layer: int, site: Site) -> bool:
        """Whether `after_linear` has something to do."""
        return any((layer, target) in self.low_ranks for target in TARGETS[site])

    def after_linear(self, layer: int, site: Site, entered: Tensor, left: Tensor) -> Tensor:
        """Changes what a linear layer made of `entered` [tokens, in] into `left` [tokens, out]."""
        parts = [self.low_ranks.get((layer, target)) for target in TARGETS[site]]
        if not any(parts):
            return left
        return torch.cat(
            [
                columns if part is None else columns + F.linear(F.linear(entered, part.down), part.up)
                for part, columns in zip(parts, left.chunk(len(parts), dim=1), strict=True)
            ],
            dim=1,
        )

    def after_projection(self, layer: int, place: Place, entered: Tensor, projected: Tensor) -> Tensor:
        """Changes what a sub-layer made of `entered` [tokens, hidden], before the residual is added.

        May give back `projected` itself, but not `entered`: the sum is written over what comes back.
        """
        block = self.bottlenecks.get((layer, place))
        if block is None:
            return projected
        x = entered if block.beside else projected
        inner = ACTIVATIONS[block.activation](F.linear(x, block.down, block.down_bias))  # [tokens, m]
        return F.linear(inner, block.up, block.up_bias).add_(projected)

    def norm(self, layer: int, place: Place, own: Norm) -> Norm:
        """The LayerNorm that follows the sub-layer: the base's `own`, or the task's."""
        return self.norms.get((layer, place), own)

    def close(
        self, layer: int, place: Place, before: Tensor, entered: Tensor, projected: Tensor, own: Norm, eps: float
    ) -> tuple[Tensor, Tensor]:
        """Ends a sub-layer that added to `before` what it `projected` from `entered`, all [tokens, hidden].

        Returns:
            (the sum, the sum normalised)
        """
        changed = self.after_projection(layer, place, entered, projected).add_(before)
        return changed, normalised(changed, self.norm(layer, place, own), eps)

    def prefix(self, layer: int, rows: Sequence[int]) -> Prefix:
        """Each of these rows' own keys and values."""
        found = self.prefixes[layer]
        return Prefix(torch.stack([found.keys] * len(rows)), torch.stack([found.values] * len(rows)))


def normalised(x: Tensor, norm: Norm, eps: float) -> Tensor:
    return F.layer_norm(x, norm.gain.shape, norm.gain, norm.bias, eps)


BARE = Adaptation()
