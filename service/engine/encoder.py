"""The forward pass ψ_{w,v}: one run of the base over packed tokens, each row with its own adapter.

Serving and training both call `encode`. What it computes is written out here, in torch's operators; where a base is
packed for our kernels (`native`), they compute the same in one call.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from service.adapters.methods import Place, Prefix, Site
from service.adapters.methods.adaptation import normalised
from service.engine import native
from service.engine.attention import attend, attend_at_once, rotate, takes_rows_at_once
from service.engine.packing import Packed
from service.engine.weights import Activation, AnyLinear, Layer, Weights


class Group(NamedTuple):
    """Neighbouring rows that share an adapter."""

    rows: slice
    tokens: slice
    adaptation: Any  # an Adaptation, or what the layout of the base has for it: a NativeAdaptation, Slotted, Grouped


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
    x = _embed(weights, stages[0].batch)
    if after_embedding is not None:
        x = after_embedding(x)
    x = x.to(weights.dtype)
    stream = x  # what sub-layers add to; `x` is what they read
    for stage in stages:
        if stage.take is not None:
            stream, x = (vectors.index_select(0, stage.take) for vectors in (stream, x))
        if weights.native is not None:
            stream, x = native.through(weights, stage.layers, stage.batch, stage.groups, stream, x)
        else:
            stream, x = _through(weights, stage, stream, x)
    return x


def _through(weights: Weights, stage: Stage, stream: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    for number in stage.layers:
        run = _Layer(number, weights.layers[number], weights, stage.batch, stage.groups)
        stream, x = run.close("attention", stream, x, run.linear("attention_out", run.attend(run.linear("qkv", x))))
        stream, x = run.close("ffn", stream, x, run.linear("ffn_out", run.widen(x)))
    return stream, x


def _embed(weights: Weights, batch: Packed) -> Tensor:
    embeddings = weights.embeddings
    if weights.native is not None and embeddings.project is None:
        return native.embed(embeddings, batch, weights.norm_eps, weights.dtype)
    x = F.embedding(batch.ids, embeddings.word)
    if embeddings.position is not None:
        x = x + F.embedding(batch.positions, embeddings.position)
    if embeddings.type is not None:
        x = x + F.embedding(batch.types, embeddings.type)
    x = normalised(x, embeddings.norm, weights.norm_eps)
    return x if embeddings.project is None else embeddings.project(x)


class _Layer(NamedTuple):
    """One layer of one pass: the frozen maths, and each group's own wherever its adapter has some."""

    number: int
    layer: Layer
    weights: Weights
    batch: Packed
    groups: Sequence[Group]

    def linear(self, site: Site, x: Tensor, activation: Activation | None = None) -> Tensor:
        """One of the layer's linear layers, for all rows at once."""
        linear: AnyLinear = getattr(self.layer, site)
        if not any(group.adaptation.changes(self.number, site) for group in self.groups):
            return linear(x) if activation is None else linear.activated(x, activation)
        parts = self._by_group(x, linear(x))
        y = _joined([group.adaptation.after_linear(self.number, site, *own) for group, own in parts])
        return y if activation is None else activation.function(y)

    def widen(self, x: Tensor) -> Tensor:
        """The first half of the feed-forward sub-layer, [tokens, inner]."""
        if self.weights.gated:
            return self.weights.activate(self.linear("ffn_in", x))
        return self.linear("ffn_in", x, self.weights.activation)

    def attend(self, qkv: Tensor) -> Tensor:
        """Self-attention within each row, [tokens, hidden]."""
        batch = self.batch
        if self.layer.rotary is not None:
            qkv = rotate(qkv, self.layer.rotary, batch.positions, self.weights.heads)
        if takes_rows_at_once(qkv) and self.layer.distances is None and not batch.prefixes.any():
            return attend_at_once(qkv, batch.starts_there, batch.longest, self.weights.heads)
        if batch.in_blocks:
            return self._attend(qkv)
        return self._attend(qkv.index_select(0, batch.by_block)).index_select(0, batch.restore)

    def close(self, place: Place, stream: Tensor, entered: Tensor, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Ends a sub-layer: adapter, residual, LayerNorm; each group's tokens with their own.

        Returns:
            (what the next sub-layer adds to, what it reads)
        """
        own = self.layer.attention_norm if place == "attention" else self.layer.ffn_norm
        closed = [
            group.adaptation.close(self.number, place, *parts, own, self.weights.norm_eps)
            for group, parts in self._by_group(stream, entered, projected)
        ]
        sums, normed = zip(*closed, strict=True)
        x = _joined(normed)
        return _joined(sums) if self.weights.norm_first else x, x

    def _by_group(self, *packed: Tensor) -> Iterator[tuple[Group, Sequence[Tensor]]]:
        """Each group with its tokens of every tensor [tokens, ·].

        A group alone has all of them as they are: in training, the way back from a slice is a copy.
        """
        if len(self.groups) == 1:
            yield self.groups[0], packed
            return
        for group in self.groups:
            yield group, [tensor[group.tokens] for tensor in packed]

    def _attend(self, qkv: Tensor) -> Tensor:
        return attend(qkv, self.batch.blocks, self.weights.heads, self._prefix, self.layer.distances)

    def _prefix(self, rows: Sequence[int]) -> Prefix:
        """The rows' own keys and values; rows come in the order of the batch."""
        found: list[Prefix] = []
        for group in self.groups:
            mine = [row - group.rows.start for row in rows if group.rows.start <= row < group.rows.stop]
            if mine:
                found.append(group.adaptation.prefix(self.number, mine))
        keys, values = zip(*found, strict=True)
        return Prefix(_joined(keys), _joined(values))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Pieces one after another; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
