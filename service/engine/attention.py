"""Self-attention that never leaves a row: rows of equal length run together, nothing is padded or masked."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from service.adapters.methods import Prefix
from service.engine.packing import Block
from service.engine.weights import Distances, Rotary


def attend(
    qkv: Tensor,
    blocks: Sequence[Block],
    heads: int,
    prefix: Callable[[Sequence[int]], Prefix],
    distances: Distances | None = None,
) -> Tensor:
    """What the heads mix, [tokens, hidden], from queries, keys and values [tokens, 3·hidden] in the order of blocks.

    Args:
        prefix: the own keys and values of the rows of a block, by their numbers; called where they have some.
        distances: what the scores gain by distance.
    """
    frozen = distances is None or not distances.added.requires_grad
    if qkv.requires_grad and frozen and not any(block.prefix for block in blocks):
        return _Training.apply(qkv, blocks, heads, distances)  # type: ignore[no-any-return, no-untyped-call]
    parts = []
    for block, part in zip(blocks, torch.split(qkv, [block.tokens for block in blocks]), strict=True):
        # On a processor in float32: a small share of the work, and torch's bfloat16 backward is many times slower.
        view = (part if part.is_cuda else part.float()).view(len(block.rows), block.length, 3, heads, -1)
        q, k, v = view.permute(2, 0, 3, 1, 4)  # [rows, heads, length, ·]
        added = distances.among(block.length) if distances is not None else None
        if block.prefix:
            keys, values = prefix(block.rows)
            k, v = torch.cat([keys.to(k.dtype), k], dim=2), torch.cat([values.to(v.dtype), v], dim=2)
            if added is not None:
                added = F.pad(added, (block.prefix, 0))  # a prefix is equally near to all
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=added.to(q.dtype) if added is not None else None)
        parts.append(mixed.transpose(1, 2).reshape(len(part), -1).to(qkv.dtype))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def takes_rows_at_once(qkv: Tensor) -> bool:
    """Whether there is a kernel for `attend_at_once` here."""
    return qkv.is_cuda and qkv.dtype != torch.float32 and torch.cuda.get_device_capability(qkv.device) >= (8, 0)


def attend_at_once(qkv: Tensor, starts: Tensor, longest: int, heads: int) -> Tensor:
    """As `attend` on a GPU in half precision, rows in any order, without prefixes and distances.

    Args:
        qkv: [tokens, 3·hidden].
        starts: where each row begins, and the last one ends: [rows + 1] in int32.
        longest: tokens of the longest row.
    """
    from torch.nn.attention import varlen  # here, because it takes seconds

    q, k, v = qkv.view(len(qkv), 3, heads, -1).unbind(1)
    mixed = varlen.varlen_attn(q, k, v, starts, starts, longest, longest)  # [tokens, heads, ·]
    assert isinstance(mixed, Tensor)  # it was not asked for more
    return mixed.reshape(len(qkv), -1)


def rotate(qkv: Tensor, rotary: Rotary, positions: Tensor, heads: int) -> Tensor:
    """Turns queries and keys [tokens, 3·hidden] by their positions [tokens]; values stay."""
    view = qkv.view(len(qkv), 3, heads, -1)
    turned = view[:, :2].float()
    cos, sin = (table.index_select(0, positions)[:, None, None] for table in rotary)
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([turned.to(qkv.dtype), view[:, 2:]], dim=1).view(qkv.shape)


class _Training(torch.autograd.Function):
    """The same with a way back of its own, in the precision of `qkv`.

    torch's fused attention is made for long rows: on a CPU, there and back, it takes two and a half times as long at
    25 tokens, and still twice as long at 128. This one keeps [rows, heads, length, length] numbers for the way back.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, blocks: Sequence[Block], heads: int, distances: Distances | None) -> Tensor:
        out = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        kept = []
        for block, part, mixed in _by_block(blocks, qkv, out):
            q, k, v = _split_heads(part, block, heads, 3)
            scores = _product(q, k.mT, q.shape[-1] ** -0.5)  # [rows·heads, length, length]
            added = distances.among(block.length) if distances is not None else None
            if added is not None:
                scores.view(-1, heads, *added.shape[1:]).add_(added)
            shares = torch.softmax(scores, dim=-1)
            _join_heads(torch.bmm(shares, v)[None], block, mixed)
            kept += [q, k, v, shares]
        ctx.save_for_backward(*kept)
        ctx.blocks, ctx.heads = blocks, heads
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        out = gradient.new_empty(len(gradient), 3 * gradient.shape[1])
        kept = iter(ctx.saved_tensors)
        for block, part, found in _by_block(ctx.blocks, gradient, out):
            q, k, v, shares = (next(kept) for _ in range(4))
            (mixed,) = _split_heads(part, block, ctx.heads, 1)
            # Softmax's own derivative: of each score, by how much its share differs from the row's mean.
            by_score = torch._softmax_backward_data(torch.bmm(mixed, v.mT), shares, -1, shares.dtype)
            parts = q.new_empty(3, *q.shape)
            _product(by_score, k, q.shape[-1] ** -0.5, out=parts[0])
            _product(by_score.mT, q, q.shape[-1] ** -0.5, out=parts[1])
            torch.bmm(shares.mT, mixed, out=parts[2])
            _join_heads(parts, block, found)
        return out, None, None, None


def _by_block(blocks: Sequence[Block], *packed: Tensor) -> Iterator[tuple[Any, ...]]:
    """Each block with its tokens of every tensor [tokens, ·]."""
    start = 0
    for block in blocks:
        yield block, *(tensor[start : start + block.tokens] for tensor in packed)
        start += block.tokens


def _split_heads(part: Tensor, block: Block, heads: int, n: int) -> Tensor:
    """[tokens, n·hidden] → [n, rows·heads, length, hidden / heads]; n is 3 for queries, keys and values."""
    view = part.view(len(block.rows), block.length, n, heads, -1).permute(2, 0, 3, 1, 4)
    return view.reshape(n, len(block.rows) * heads, block.length, -1)


def _join_heads(parts: Tensor, block: Block, out: Tensor) -> None:
    """The way back, into `out`."""
    view = parts.view(len(parts), len(block.rows), -1, block.length, parts.shape[-1]).permute(1, 3, 0, 2, 4)
    out.view(view.shape).copy_(view)


def _product(a: Tensor, b: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    return torch.baddbmm(a.new_empty(()), a, b, beta=0, alpha=scale, out=out)
