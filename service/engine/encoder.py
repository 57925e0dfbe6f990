"""The forward pass ψ_{w,v}: one run of the base over packed tokens, each row with its own adapter.

Serving and training both call `encode`; there is no other implementation of it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from service.adapters.methods import Adaptation, Norm, Place
from service.engine.tokens import Packed
from service.engine.weights import Embeddings, Layer, Weights


class Group(NamedTuple):
    """Neighbouring tokens that share an adapter."""

    tokens: slice
    adaptation: Adaptation


def encode(
    weights: Weights, batch: Packed, groups: Sequence[Group], after_embedding: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Token vectors after the last layer, [tokens, hidden].

    Args:
        groups: cover every token once, in order.
        after_embedding: a change to the embedded tokens; training puts its dropout there.
    """
    x = _embed(weights.embeddings, batch, weights.norm_eps)
    if after_embedding is not None:
        x = after_embedding(x)
    x = x.to(weights.dtype)
    for index, layer in enumerate(weights.layers):
        attended = layer.attention_out(_attend(layer, x, batch, weights.heads))
        x = _close(index, "attention", attended, x, layer.attention_norm, groups, weights.norm_eps)
        inner = weights.activation(layer.ffn_in(x))
        x = _close(index, "ffn", layer.ffn_out(inner), x, layer.ffn_norm, groups, weights.norm_eps)
    return x


def _embed(embeddings: Embeddings, batch: Packed, eps: float) -> Tensor:
    x = F.embedding(batch.ids, embeddings.word) + F.embedding(batch.positions, embeddings.position)
    if embeddings.type is not None:
        x = x + F.embedding(batch.types, embeddings.type)
    return _normalise(x, embeddings.norm, eps)


def _attend(layer: Layer, x: Tensor, batch: Packed, heads: int) -> Tensor:
    """Self-attention that never leaves a row: rows of equal length run together, so nothing is padded or masked."""
    qkv = layer.qkv(x).index_select(0, batch.by_length)  # [T, 3·hidden]
    parts = []
    for part, (rows, length) in zip(torch.split(qkv, [r * n for r, n in batch.blocks]), batch.blocks, strict=True):
        # In float32 always: a small share of the work, and torch's bfloat16 backward is many times slower on CPU.
        q, k, v = part.float().view(rows, length, 3, heads, -1).permute(2, 0, 3, 1, 4)  # [rows, heads, length, ·]
        mixed = F.scaled_dot_product_attention(q, k, v)
        parts.append(mixed.transpose(1, 2).reshape(rows * length, -1))
    return torch.cat(parts).to(x.dtype).index_select(0, batch.restore)


def _close(
    layer: int, place: Place, projected: Tensor, residual: Tensor, own: Norm, groups: Sequence[Group], eps: float
) -> Tensor:
    """Ends a sub-layer: adapter, residual, LayerNorm; each group's tokens with their own."""
    parts = []
    for tokens, adaptation in groups:
        changed = adaptation.after_projection(layer, place, projected[tokens])
        parts.append(_normalise(changed + residual[tokens], adaptation.norm(layer, place, own), eps))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _normalise(x: Tensor, norm: Norm, eps: float) -> Tensor:
    return F.layer_norm(x, norm.gain.shape, norm.gain, norm.bias, eps)
