"""The forward pass ψ_{w,v}: one run of the base over packed tokens, each row with its own adapter.

Serving and training both call `encode`; there is no other implementation of it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from service.adapters.methods import Norm, Place, Site
from service.engine.attention import rotate
from service.engine.grouped import Group, Grouped, OneByOne
from service.engine.native import NativeGroups
from service.engine.packing import Packed
from service.engine.weights import Activation, Embeddings, Layer, Weights


class Stage(NamedTuple):
    """Some layers, and the rows that go through them; the groups cover every row once, in order."""

    layers: range
    batch: Packed
    groups: Sequence[Group]
    take: Tensor | None  # [tokens]: which token of the stage before each one goes on from; None: all, as they stand


def encode(
    weights: Weights, batch: Packed, groups: Sequence[Group], after_embedding: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Token vectors after the last layer, [tokens, hidden], of rows that stay the same all the way.

    Args:
        groups: cover every row once, in order.
        after_embedding: a change to the embedded tokens; training puts its dropout there.
    """
    return encode_stages(weights, [Stage(range(len(weights.layers)), batch, groups, None)], after_embedding)


def encode_stages(
    weights: Weights, stages: Sequence[Stage], after_embedding: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Token vectors after the last layer, [tokens of the last stage, hidden]."""
    x = _embed(weights.embeddings, stages[0].batch, weights.norm_eps)
    if after_embedding is not None:
        x = after_embedding(x)
    x = x.to(weights.dtype)
    stream = x  # what sub-layers add to; `x` is what they read
    for stage in stages:
        if stage.take is not None:
            stream, x = (vectors.index_select(0, stage.take) for vectors in (stream, x))
        stream, x = _through(weights, stage, stream, x)
    return x


def _through(weights: Weights, stage: Stage, stream: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    grouped = (NativeGroups if weights.native else OneByOne)(weights, stage.batch, stage.groups)
    for number in stage.layers:
        run = _Layer(number, weights.layers[number], weights, stage.batch, grouped)
        stream, x = run.close("attention", stream, x, run.linear("attention_out", run.attend(run.linear("qkv", x))))
        stream, x = run.close("ffn", stream, x, run.linear("ffn_out", run.widen(x)))
    return stream, x


def _embed(embeddings: Embeddings, batch: Packed, eps: float) -> Tensor:
    x = F.embedding(batch.ids, embeddings.word)
    if embeddings.position is not None:
        x = x + F.embedding(batch.positions, embeddings.position)
    if embeddings.type is not None:
        x = x + F.embedding(batch.types, embeddings.type)
    x = F.layer_norm(x, embeddings.norm.gain.shape, *embeddings.norm, eps)
    return x if embeddings.project is None else embeddings.project(x)


class _Layer(NamedTuple):
    """One layer of one pass: the frozen maths, and where the adapters step in."""

    number: int
    layer: Layer
    weights: Weights
    batch: Packed
    grouped: Grouped

    def linear(self, site: Site, x: Tensor, activation: Activation | None = None) -> Tensor:
        """One of the layer's linear layers, for all rows at once."""
        return self.grouped.linear(self.number, site, getattr(self.layer, site), x, activation)

    def widen(self, x: Tensor) -> Tensor:
        """The first half of the feed-forward sub-layer, [tokens, inner]."""
        if self.weights.gated:
            return self.weights.activate(self.linear("ffn_in", x))
        return self.linear("ffn_in", x, self.weights.activation)

    def attend(self, qkv: Tensor) -> Tensor:
        """Self-attention within each row, [tokens, hidden]."""
        if self.layer.rotary is not None:
            qkv = rotate(qkv, self.layer.rotary, self.batch.positions, self.weights.heads)
        return self.grouped.attend(self.number, self.layer, qkv)

    def close(self, place: Place, stream: Tensor, entered: Tensor, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Ends a sub-layer.

        Returns:
            (what the next sub-layer adds to, what it reads)
        """
        own: Norm = self.layer.attention_norm if place == "attention" else self.layer.ffn_norm
        return self.grouped.close(self.number, place, own, stream, entered, projected)
