"""LoRA: a product of two thin matrices added to a frozen one (Hu et al. 2021, arXiv 2106.09685)."""

from collections.abc import Mapping
from math import sqrt
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from service.adapters.methods.base import (
    Adaptation,
    Dims,
    LayeredAdaptation,
    LayeredMethod,
    Norms,
    Shape,
    Site,
    Tensors,
)

Target = Literal["query", "key", "value", "attention_out", "ffn_in", "ffn_out"]
QKV: tuple[Target, ...] = ("query", "key", "value")


class LowRank(NamedTuple):
    """What is added to one linear layer: up · down."""

    down: Tensor  # [r, in]
    up: Tensor  # [out, r], the scale within


class LoraAdaptation(LayeredAdaptation):
    def __init__(self, parts: Mapping[tuple[int, Site], LowRank], norms: Norms) -> None:
        super().__init__((layer for layer, _ in (*parts, *norms)), norms)
        self._parts = parts
        self.sites = frozenset(parts)

    def after_linear(self, layer: int, site: Site, entered: Tensor, left: Tensor) -> Tensor:
        part = self._parts.get((layer, site))
        return left if part is None else left + F.linear(F.linear(entered, part.down), part.up)

    @property
    def nbytes(self) -> int:
        return super().nbytes + sum(tensor.nbytes for part in self._parts.values() for tensor in part)


class Lora(LayeredMethod):
    """Low-rank changes to any of a layer's linear layers; they start at zero."""

    name: Literal["lora"] = "lora"
    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    alpha: Annotated[float, Field(gt=0, le=1e4, allow_inf_nan=False)] = Field(
        default=32.0, description="the change is multiplied by alpha / rank"
    )
    targets: tuple[Target, ...] = Field(default=("query", "value"), min_length=1)

    def check(self, dims: Dims) -> str | None:
        if len(set(self.targets)) != len(self.targets):
            return f"method.targets names one twice: {list(self.targets)}"
        return super().check(dims)

    def layer_shapes(self, dims: Dims) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        for target in self.targets:
            wide = {"ffn_in": (dims.hidden, dims.ffn_in), "ffn_out": (dims.inner, dims.hidden)}
            into, out = wide.get(target, (dims.hidden, dims.hidden))
            shapes[f"{target}.down.weight"] = (self.rank, into)
            shapes[f"{target}.up.weight"] = (out, self.rank)
        return shapes

    def start(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        if ".down." in name:  # `up` stays zero
            bound = 1 / sqrt(tensor.shape[1])
            tensor.uniform_(-bound, bound, generator=generator)

    def adapt(self, dims: Dims, tensors: Tensors, dtype: torch.dtype) -> Adaptation:
        parts: dict[tuple[int, Site], LowRank] = {}
        for layer in self.numbers(dims):
            found = {
                target: (
                    tensors[f"layers.{layer}.{target}.down.weight"].to(dtype),
                    (tensors[f"layers.{layer}.{target}.up.weight"] * (self.alpha / self.rank)).to(dtype),
                )
                for target in self.targets
            }
            if any(target in found for target in QKV):
                parts[layer, "qkv"] = self._fused(dims, found)
            for site in ("attention_out", "ffn_in", "ffn_out"):
                if site in found:
                    parts[layer, site] = LowRank(*found[site])
        return LoraAdaptation(parts, self.own_norms(dims, tensors))

    def _fused(self, dims: Dims, found: Mapping[Target, tuple[Tensor, Tensor]]) -> LowRank:
        """Query, key and value lie under one another in the base; so do their changes, with zeros between."""
        present = [target for target in QKV if target in found]
        rows = []
        for target in QKV:
            blocks = [
                found[target][1] if other == target else found[other][1].new_zeros(dims.hidden, self.rank)
                for other in present
            ]
            rows.append(torch.cat(blocks, dim=1))  # [hidden, r · present]
        return LowRank(torch.cat([found[target][0] for target in present]), torch.cat(rows))
