"""All adapters of a stack that a batch has, as one: their maths in batched products, whoever's the tokens are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from service.adapters.methods import BARE, TARGETS, Adaptation, Norm, Place, Prefix, Site
from service.adapters.methods.adaptation import ACTIVATIONS, normalised
from service.engine.device import sent
from service.engine.encoder import Group, Stage
from service.engine.slots.blocks import in_blocks
from service.engine.slots.stack import Slotted


@dataclass(frozen=True, eq=False)
class Grouped:
    """What `Adaptation` computes for one adapter, for neighbouring rows of many.

    Tokens [tokens, ·] go into blocks [blocks, size, ·], each block meets the weights of its slot, and they come back.
    """

    parts: Adaptation  # with a dimension before the others: [slots, ·]
    size: int
    slots: Tensor  # [blocks]
    slot_of_row: Tensor  # [rows]
    token: Tensor | None  # [blocks · size]: which token each place holds; None: the tokens as they stand
    place: Tensor | None  # [tokens]: where each token is

    def changes(self, layer: int, site: Site) -> bool:
        return self.parts.changes(layer, site)

    def after_linear(self, layer: int, site: Site, entered: Tensor, left: Tensor) -> Tensor:
        """As `Adaptation.after_linear`, but may write over `left`."""
        if not self.changes(layer, site):
            return left
        x = self._blocks(entered)
        columns = left.chunk(len(TARGETS[site]), dim=1)
        for target, mine in zip(TARGETS[site], columns, strict=True):
            part = self.parts.low_ranks.get((layer, target))
            if part is not None:
                inner = torch.bmm(x, self._own(part.down).mT)  # [blocks, size, r]
                mine += self._tokens(torch.bmm(inner, self._own(part.up).mT))
        return left

    def close(
        self, layer: int, place: Place, before: Tensor, entered: Tensor, projected: Tensor, own: Norm, eps: float
    ) -> tuple[Tensor, Tensor]:
        block, norm = self.parts.bottlenecks.get((layer, place)), self.parts.norms.get((layer, place))
        if block is None and norm is None:
            return BARE.close(layer, place, before, entered, projected, own, eps)
        sums = self._blocks(projected + before)
        if block is not None:
            x = self._blocks(entered if block.beside else projected)
            inner = ACTIVATIONS[block.activation](_linear(x, self._own(block.down), self._own(block.down_bias)))
            sums = _linear(inner, self._own(block.up), self._own(block.up_bias)).add_(sums)
        if norm is None:
            stream = self._tokens(sums)
            return stream, normalised(stream, own, eps)
        plain = F.layer_norm(sums, sums.shape[-1:], eps=eps)
        gain, bias = self._own(norm.gain)[:, None], self._own(norm.bias)[:, None]  # [blocks, 1, hidden]
        return self._tokens(sums), self._tokens(torch.addcmul(bias, plain, gain))

    def prefix(self, layer: int, rows: Sequence[int]) -> Prefix:
        keys, values = self.parts.prefixes[layer]
        slots = self.slot_of_row[list(rows)]
        return Prefix(keys.index_select(0, slots), values.index_select(0, slots))

    def _own(self, stacked: Tensor) -> Tensor:
        """Each block's own: [slots, ·] → [blocks, ·]."""
        return stacked.index_select(0, self.slots)

    def _blocks(self, x: Tensor) -> Tensor:
        """[tokens, ·] → [blocks, size, ·]"""
        placed = x if self.token is None else x.index_select(0, self.token)
        return placed.view(-1, self.size, x.shape[1])

    def _tokens(self, x: Tensor) -> Tensor:
        """The way back."""
        flat = x.flatten(0, 1)
        return flat if self.place is None else flat.index_select(0, self.place)


def on_device(stages: Sequence[Stage], device: torch.device) -> list[Stage]:
    """Stages whose adapters have slots, with their batches on the device and one group for each stack."""
    return [
        Stage(
            stage.layers,
            stage.batch.to(device),
            list(_grouped(stage.groups, device)),
            None if stage.take is None else sent(stage.take, device),
        )
        for stage in stages
    ]


def _grouped(groups: Sequence[Group], device: torch.device) -> Iterator[Group]:
    for held, members in groupby(groups, key=lambda group: getattr(group.adaptation, "stack", group.adaptation)):
        if isinstance(held, Adaptation):
            yield from members
            continue
        mine = list(members)
        rows = slice(mine[0].rows.start, mine[-1].rows.stop)
        tokens = slice(mine[0].tokens.start, mine[-1].tokens.stop)
        yield Group(rows, tokens, _of_stack(mine, device))


def _of_stack(groups: Sequence[Group], device: torch.device) -> Grouped:
    slotted: list[Slotted] = [group.adaptation for group in groups]
    slots = np.array([one.number for one in slotted])
    blocks = in_blocks([group.tokens.stop - group.tokens.start for group in groups])
    by_row = np.repeat(slots, [group.rows.stop - group.rows.start for group in groups])
    token, place = (None, None) if blocks.full else (blocks.token, blocks.place)

    def here(numbers: np.typing.NDArray[np.int64]) -> Tensor:
        return sent(torch.from_numpy(numbers), device)

    return Grouped(
        parts=slotted[0].stack.parts,
        size=blocks.size,
        slots=here(slots[blocks.owners]),
        slot_of_row=here(by_row),
        token=None if token is None else here(token),
        place=None if place is None else here(place),
    )


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[blocks, size, in] → [blocks, size, out], each block with its own weights."""
    return torch.baddbmm(bias[:, None], x, weight.mT)
