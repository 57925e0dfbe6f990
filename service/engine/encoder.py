"""The forward pass ψ_{w,v}: one run of the base over packed tokens, each row with its own adapter.

Serving and training both call `encode`; there is no other implementation of it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from service.adapters.methods import Adaptation, Norm, Place, Site
from service.engine.packing import Packed
from service.engine.weights import Embeddings, Layer, Linear, Weights


class Group(NamedTuple):
    """Neighbouring rows that share an adapter."""

    rows: slice
    tokens: slice
    adaptation: Adaptation


def encode(
    weights: Weights, batch: Packed, groups: Sequence[Group], after_embedding: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Token vectors after the last layer, [tokens, hidden].

    Args:
        groups: cover every row once, in order.
        after_embedding: a change to the embedded tokens; training puts its dropout there.
    """
    x = _embed(weights.embeddings, batch, weights.norm_eps)
    if after_embedding is not None:
        x = after_embedding(x)
    x = x.to(weights.dtype)
    for index, layer in enumerate(weights.layers):
        run = _Layer(index, layer, weights, batch, groups)
        x = run.close("attention", x, run.linear("attention_out", run.attend(run.linear("qkv", x))))
        x = run.close("ffn", x, run.linear("ffn_out", weights.activation(run.linear("ffn_in", x))))
    return x


def _embed(embeddings: Embeddings, batch: Packed, eps: float) -> Tensor:
    x = F.embedding(batch.ids, embeddings.word) + F.embedding(batch.positions, embeddings.position)
    if embeddings.type is not None:
        x = x + F.embedding(batch.types, embeddings.type)
    return _normalise(x, embeddings.norm, eps)


class _Layer(NamedTuple):
    """One layer of one pass: the frozen maths, and each group's own wherever its adapter has some."""

    number: int
    layer: Layer
    weights: Weights
    batch: Packed
    groups: Sequence[Group]

    def linear(self, site: Site, x: Tensor) -> Tensor:
        """One of the layer's linear layers, for all rows at once."""
        linear: Linear = getattr(self.layer, site)
        y = linear(x)
        if not any((self.number, site) in group.adaptation.sites for group in self.groups):
            return y
        return _joined(
            group.adaptation.after_linear(self.number, site, x[group.tokens], y[group.tokens]) for group in self.groups
        )

    def attend(self, qkv: Tensor) -> Tensor:
        """Self-attention that never leaves a row: rows of equal length run together, nothing is padded or masked."""
        parts = []
        batch, heads = self.batch, self.weights.heads
        sizes = [len(block.rows) * block.length for block in batch.blocks]
        for block, part in zip(batch.blocks, torch.split(qkv.index_select(0, batch.by_block), sizes), strict=True):
            # In float32 always: a small share of the work, and torch's bfloat16 backward is many times slower on CPU.
            view = part.float().view(len(block.rows), block.length, 3, heads, -1)
            q, k, v = view.permute(2, 0, 3, 1, 4)  # [rows, heads, length, ·]
            if block.prefix:
                prefixes = [self._adaptation(row).prefix(self.number) for row in block.rows]
                k = torch.cat([torch.stack([prefix.keys for prefix in prefixes]), k], dim=2)
                v = torch.cat([torch.stack([prefix.values for prefix in prefixes]), v], dim=2)
            mixed = F.scaled_dot_product_attention(q, k, v)
            parts.append(mixed.transpose(1, 2).reshape(len(part), -1))
        return _joined(parts).to(qkv.dtype).index_select(0, batch.restore)

    def close(self, place: Place, residual: Tensor, projected: Tensor) -> Tensor:
        """Ends a sub-layer: adapter, residual, LayerNorm; each group's tokens with their own."""
        own = self.layer.attention_norm if place == "attention" else self.layer.ffn_norm
        parts = []
        for _, tokens, adaptation in self.groups:
            changed = adaptation.after_projection(self.number, place, residual[tokens], projected[tokens])
            norm = adaptation.norm(self.number, place, own)
            parts.append(_normalise(changed + residual[tokens], norm, self.weights.norm_eps))
        return _joined(parts)

    def _adaptation(self, row: int) -> Adaptation:
        return next(group.adaptation for group in self.groups if group.rows.start <= row < group.rows.stop)


def _joined(parts: Iterable[Tensor]) -> Tensor:
    """Pieces one after another; a single one is not copied."""
    parts = list(parts)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _normalise(x: Tensor, norm: Norm, eps: float) -> Tensor:
    return F.layer_norm(x, norm.gain.shape, norm.gain, norm.bias, eps)
