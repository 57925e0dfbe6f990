"""What differs from group to group within a layer, in torch's own operators: one group after another.

Training runs it, with gradients; serving does where the kernels of `native` are not at hand.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from service.adapters.methods import Norm, Place, Prefix, Site
from service.engine.attention import attend
from service.engine.packing import Packed
from service.engine.weights import Activation, AnyLinear, Layer, Weights


class Group(NamedTuple):
    """Neighbouring rows that share an adapter."""

    rows: slice
    tokens: slice
    adaptation: Any  # an Adaptation; or a NativeAdaptation, where the base is packed


class Grouped(Protocol):
    """A batch's groups in one forward pass."""

    def linear(
        self, number: int, site: Site, linear: AnyLinear, x: Tensor, activation: Activation | None = None
    ) -> Tensor:
        """One of a layer's linear layers, as the adapters change it; [tokens, in] → [tokens, out]."""

    def attend(self, number: int, layer: Layer, qkv: Tensor) -> Tensor:
        """Self-attention within each row: [tokens, 3·hidden] → [tokens, hidden]."""

    def close(
        self, number: int, place: Place, own: Norm, stream: Tensor, entered: Tensor, projected: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Ends a sub-layer that made `projected` of `entered`: adapter, residual, LayerNorm.

        Args:
            own: the base's LayerNorm.
            stream: what the sub-layer adds to.

        Returns:
            (the sums, the sums normalised), each [tokens, hidden]
        """


class OneByOne:
    """Group after group."""

    def __init__(self, weights: Weights, batch: Packed, groups: Sequence[Group]) -> None:
        self._weights, self._batch, self._groups = weights, batch, groups

    def linear(
        self, number: int, site: Site, linear: AnyLinear, x: Tensor, activation: Activation | None = None
    ) -> Tensor:
        if not any(group.adaptation.changes(number, site) for group in self._groups):
            return linear(x) if activation is None else linear.activated(x, activation)
        parts = self._by_group(x, linear(x))
        y = _joined([group.adaptation.after_linear(number, site, *own) for group, own in parts])
        return y if activation is None else activation.function(y)

    def attend(self, number: int, layer: Layer, qkv: Tensor) -> Tensor:
        batch = self._batch
        if batch.in_blocks:
            return self._attend(number, layer, qkv)
        return self._attend(number, layer, qkv.index_select(0, batch.by_block)).index_select(0, batch.restore)

    def close(
        self, number: int, place: Place, own: Norm, stream: Tensor, entered: Tensor, projected: Tensor
    ) -> tuple[Tensor, Tensor]:
        sums, parts = [], []
        for (_, _, adaptation), (before, read, after) in self._by_group(stream, entered, projected):
            changed = adaptation.after_projection(number, place, read, after).add_(before)
            sums.append(changed)
            norm: Norm = adaptation.norm(number, place, own)
            parts.append(F.layer_norm(changed, norm.gain.shape, norm.gain, norm.bias, self._weights.norm_eps))
        x = _joined(parts)
        return _joined(sums) if self._weights.norm_first else x, x

    def _by_group(self, *packed: Tensor) -> Iterator[tuple[Group, Sequence[Tensor]]]:
        """Each group with its tokens of every tensor [tokens, ·].

        A group alone has all of them as they are: in training, the way back from a slice is a copy.
        """
        if len(self._groups) == 1:
            yield self._groups[0], packed
            return
        for group in self._groups:
            yield group, [tensor[group.tokens] for tensor in packed]

    def _attend(self, number: int, layer: Layer, qkv: Tensor) -> Tensor:
        return attend(qkv, self._batch.blocks, self._weights.heads, self._prefixes(number), layer.distances)

    def _prefixes(self, number: int) -> Callable[[int], Prefix]:
        def prefix(row: int) -> Prefix:
            group = next(group for group in self._groups if group.rows.start <= row < group.rows.stop)
            found: Prefix = group.adaptation.prefixes[number]
            return found

        return prefix


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Pieces one after another; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
