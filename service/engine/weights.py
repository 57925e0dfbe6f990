"""The frozen weights w, laid out for the forward pass."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from service.adapters.methods import Dims, Norm, Place


class Activation(NamedTuple):
    name: Literal["gelu", "gelu_tanh", "relu", "swish"]
    function: Callable[[Tensor], Tensor]
    fused: tuple[str, str] | None = None  # what oneDNN calls it behind a linear layer, and its variant


class AnyLinear(Protocol):
    """A linear layer, as the checkpoint has it or laid out for the processor."""

    @property
    def weight(self) -> Tensor: ...  # [out, in]

    @property
    def bias(self) -> Tensor | None: ...  # [out]

    @property
    def shape(self) -> tuple[int, int]: ...  # (out, in)

    @property
    def dtype(self) -> torch.dtype: ...  # of what it reads and makes

    def __call__(self, x: Tensor) -> Tensor: ...

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        """The activation of what the layer makes of `x`."""


class Linear(NamedTuple):
    weight: Tensor  # [out, in]
    bias: Tensor | None  # [out]

    @property
    def shape(self) -> tuple[int, int]:
        out, read = self.weight.shape
        return out, read

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        return activation.function(self(x))

    def to(self, dtype: torch.dtype) -> "Linear":
        return Linear(self.weight.to(dtype), self.bias.to(dtype) if self.bias is not None else None)


class Embeddings(NamedTuple):
    """Of `size` numbers each; most often as many as hidden."""

    word: Tensor  # [vocabulary, size]
    position: Tensor | None  # [positions, size], from a row's first token on
    type: Tensor | None  # [types, size]
    norm: Norm
    project: Linear | None = None  # from size to hidden


class Rotary(NamedTuple):
    """Positions as angles by which pairs of numbers in queries and keys are turned (Su et al. 2021, arXiv 2104.09864).

    The first half of a head's numbers is paired with the second.
    """

    cos: Tensor  # [positions, hidden / heads]
    sin: Tensor  # [positions, hidden / heads]


class Distances(NamedTuple):
    """What is added to the score of a key by how far it stands from the query."""

    added: Tensor  # [heads or 1, 2·positions - 1]; distance 0 in the middle, keys behind the query after it
    free: int  # rows up to this length need nothing added

    def among(self, length: int) -> Tensor | None:
        """[heads or 1, length queries, length keys]."""
        if length <= self.free:
            return None
        middle = self.added.shape[1] // 2
        return self.added[:, middle - length + 1 : middle + length].unfold(1, length, 1).flip(1)


class Layer(NamedTuple):
    qkv: AnyLinear  # query, key and value, one under the other: [3·hidden, hidden]
    attention_out: AnyLinear
    attention_norm: Norm
    ffn_in: AnyLinear  # [inner, hidden]; with a gate [2·inner, hidden], the gate below
    ffn_out: AnyLinear
    ffn_norm: Norm
    rotary: Rotary | None = None  # one for all layers that turn alike
    distances: Distances | None = None


class Weights(NamedTuple):
    embeddings: Embeddings
    layers: tuple[Layer, ...]
    heads: int
    norm_eps: float
    activation: Activation
    norm_first: bool = False  # sub-layers read normalised vectors, and add to the plain ones
    gated: bool = False
    native: Any = None  # the same as the kernels of `native` see it, where the linear layers are packed for them
    slots: Any = None  # where adapters are stacked, in serving by torch's operators

    def tensors(self) -> Iterator[Tensor]:
        yield from _leaves((self.embeddings, self.layers))

    def to(self, dtype: torch.dtype) -> "Weights":
        """The linear layers in another precision; embeddings and norms stay, being cheap and worth their digits."""

        def converted(linear: AnyLinear) -> AnyLinear:
            assert isinstance(linear, Linear)
            return linear.to(dtype)

        return self.with_linears(converted)

    def on(self, device: torch.device, dtype: torch.dtype) -> "Weights":
        """The same base on a GPU: its layers' norms in one precision with what they read, as CUDA's LayerNorm wants."""
        moved: dict[int, Tensor] = {}  # what layers share stays shared

        def norm(given: Norm) -> Norm:
            return Norm(given.gain.to(dtype), given.bias.to(dtype))

        def move(node: Any) -> Any:
            if isinstance(node, torch.Tensor):
                return moved.setdefault(id(node), node.to(device))
            if isinstance(node, tuple):
                parts = [move(part) for part in node]
                return type(node)(*parts) if hasattr(node, "_fields") else tuple(parts)
            return node

        layers = tuple(
            layer._replace(attention_norm=norm(layer.attention_norm), ffn_norm=norm(layer.ffn_norm))
            for layer in self.to(dtype).layers
        )
        return self._replace(embeddings=move(self.embeddings), layers=move(layers))

    def with_linears(self, change: Callable[[AnyLinear], AnyLinear]) -> "Weights":
        """The same base with each of its linear layers changed."""
        layers = tuple(
            layer._replace(
                qkv=change(layer.qkv),
                attention_out=change(layer.attention_out),
                ffn_in=change(layer.ffn_in),
                ffn_out=change(layer.ffn_out),
            )
            for layer in self.layers
        )
        return self._replace(layers=layers)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the linear layers, and of token vectors between them."""
        return self.layers[0].qkv.dtype

    @property
    def dims(self) -> Dims:
        hidden, inner = self.layers[0].ffn_out.shape
        return Dims(len(self.layers), hidden, inner, self.heads, self.gated)

    def activate(self, wide: Tensor) -> Tensor:
        """Between the linear layers of the feed-forward sub-layer: [tokens, ffn_in] → [tokens, inner]."""
        if not self.gated:
            return self.activation.function(wide)
        inner, gate = wide.chunk(2, dim=-1)
        return self.activation.function(inner) * gate

    def norms(self) -> dict[tuple[int, Place], Norm]:
        """Every layer's two LayerNorms, by layer and place."""
        norms: dict[tuple[int, Place], Norm] = {}
        for index, layer in enumerate(self.layers):
            norms[index, "attention"] = layer.attention_norm
            norms[index, "ffn"] = layer.ffn_norm
        return norms


def _leaves(node: object) -> Iterator[Tensor]:
    if isinstance(node, torch.Tensor):
        yield node
    elif isinstance(node, tuple):
        for part in node:
            yield from _leaves(part)
