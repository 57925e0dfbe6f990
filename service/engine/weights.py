"""The frozen weights w, laid out for the forward pass."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from service.adapters.methods import Dims, Norm, Place


class Linear(NamedTuple):
    weight: Tensor  # [out, in]
    bias: Tensor  # [out]

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def to(self, dtype: torch.dtype) -> "Linear":
        return Linear(self.weight.to(dtype), self.bias.to(dtype))


class Embeddings(NamedTuple):
    word: Tensor  # [vocabulary, hidden]
    position: Tensor  # [positions, hidden], from a row's first token on
    type: Tensor | None  # [types, hidden]
    norm: Norm


class Layer(NamedTuple):
    qkv: Linear  # query, key and value, one under the other: [3·hidden, hidden]
    attention_out: Linear
    attention_norm: Norm
    ffn_in: Linear
    ffn_out: Linear
    ffn_norm: Norm


class Weights(NamedTuple):
    embeddings: Embeddings
    layers: tuple[Layer, ...]
    heads: int
    norm_eps: float
    activation: Callable[[Tensor], Tensor]

    def tensors(self) -> Iterator[Tensor]:
        yield from _leaves((self.embeddings, self.layers))

    def to(self, dtype: torch.dtype) -> "Weights":
        """The linear layers in another precision; embeddings and norms stay, being cheap and worth their digits."""
        layers = tuple(
            layer._replace(
                qkv=layer.qkv.to(dtype),
                attention_out=layer.attention_out.to(dtype),
                ffn_in=layer.ffn_in.to(dtype),
                ffn_out=layer.ffn_out.to(dtype),
            )
            for layer in self.layers
        )
        return self._replace(layers=layers)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the linear layers, and of token vectors between them."""
        return self.layers[0].qkv.weight.dtype

    @property
    def dims(self) -> Dims:
        inner, hidden = self.layers[0].ffn_in.weight.shape
        return Dims(layers=len(self.layers), hidden=hidden, inner=inner, heads=self.heads)

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
