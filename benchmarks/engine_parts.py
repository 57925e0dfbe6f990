"""Where the time of a bare pass goes, and how fast this processor multiplies: ways of `engine_ours.py`.

Parts are timed on their own, on the batches of the whole pass. Two of them run only within a pass, and are what is left
of it: attention, and the closing of sub-layers (the sum with what they read, the LayerNorm).
"""

from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from peers.protocol import Batch, Way
from service.adapters.methods import BARE
from service.engine import native
from service.engine.bank import bare_resident
from service.engine.base_model import BaseModel
from service.engine.heads import by_kernels
from service.engine.native import NativeLinear
from service.engine.packing import pack
from service.engine.stages import Asked, plan
from service.engine.weights import Linear
from service.tasks import TokenizedRow

Product = tuple[int, int, int]  # tokens, inputs, outputs
PARTS = ("planning", "embedding", "linear layers", "heads")


def parts(base: BaseModel) -> dict[str, Way]:
    """The parts of a bare pass by name."""
    weights, bare = base.weights, bare_resident(base)
    nothing = np.zeros((1, 1), dtype=np.float32)

    def tokens(batch: Batch) -> list[TokenizedRow]:
        return [TokenizedRow(ids, np.zeros_like(ids), truncated=False) for ids in batch]

    def planning(batch: Batch) -> object:
        plan([Asked(row, BARE, id(bare)) for row in tokens(batch)], base.dims.layers)
        return nothing

    def embedding(batch: Batch) -> object:
        native.embed(weights.embeddings, pack(tokens(batch)), weights.norm_eps, weights.dtype)
        return nothing

    def linear_layers(batch: Batch) -> object:
        narrow = torch.full((sum(map(len, batch)), base.dims.hidden), 0.5, dtype=weights.dtype)
        for layer in weights.layers:
            layer.qkv(narrow)
            layer.attention_out(narrow)
            layer.ffn_out(layer.ffn_in.activated(narrow, weights.activation))
        return nothing

    def heads(batch: Batch) -> object:
        ends = np.cumsum([len(ids) for ids in batch]).tolist()
        hidden = torch.zeros(ends[-1], base.dims.hidden, dtype=weights.dtype)
        by_kernels([bare] * len(batch), hidden, list(zip([0, *ends], ends, strict=False)))
        return nothing

    found = (planning, embedding, linear_layers, heads)
    return {name: torch.inference_mode()(way) for name, way in zip(PARTS, found, strict=True)}


def products(base: BaseModel, shapes: Sequence[Product]) -> dict[str, Way]:
    """One product of each shape, by our own kernels and by torch's; a batch is not looked at."""
    ways: dict[str, Way] = {}
    for tokens, k, n in shapes:
        generator = torch.Generator().manual_seed(0)
        weight, x = torch.randn(n, k, generator=generator), torch.randn(tokens, k, generator=generator)
        made = {
            "kernels": partial(_ours, base.precision, weight, x.to(base.weights.dtype)),
            "torch": partial(_torchs, base.precision, weight, x),
        }
        for side, make in made.items():
            ways[f"{side} {tokens} × {k} × {n}"] = _way(make)
    return ways


def _ours(precision: str, weight: Tensor, x: Tensor) -> Callable[[], Tensor]:
    linear = NativeLinear.of(Linear(weight, None), precision, x.dtype)
    return lambda: linear(x)


def _torchs(precision: str, weight: Tensor, x: Tensor) -> Callable[[], Tensor]:
    if precision == "int8":
        left, right = x.mul(20).to(torch.int8), weight.mul(20).to(torch.int8).t()
        return lambda: torch._int_mm(left, right)
    dtype = getattr(torch, precision)
    laid, given = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype), len(x)), x.to(dtype)
    if precision == "float32":
        return lambda: F.linear(x, weight)
    return lambda: torch.ops.mkldnn._linear_pointwise(given, laid, None, "none", [], "none")


def _way(make: Callable[[], Callable[[], Tensor]]) -> Way:
    made = cache(make)  # at its first batch, which is not timed: torch does not multiply everything everywhere

    def way(batch: Batch) -> object:
        with torch.inference_mode():
            return made()()[:1, :1].float().numpy()

    return way
