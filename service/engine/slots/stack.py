"""Adapters of equal shape in the slots of one tensor, on the device and in the precision that the engine runs in.

A slot is its adapter's as long as somebody holds the `Slotted`; then the next one gets it. Tensors of a slot lie one
behind another, so an adapter comes with one copy, whatever its method. Narrow sides are widened with zeros, which add
nothing: adapters of nearly one size share a stack, and every matrix begins where a GPU likes to read.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import chain
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary, finalize

import torch
import torch.nn.functional as F
from torch import Tensor

from service.adapters.methods import BARE, Adaptation
from service.adapters.methods.adaptation import Bottleneck, LowRank
from service.engine.device import Upload

NARROW = 16  # bottlenecks and ranks are widened to multiples of it
LINE = 64  # numbers: what each tensor of a slot begins at a multiple of
FIRST = 4  # slots that a stack begins with; each time it is full, it doubles


@dataclass(frozen=True, eq=False)
class Slotted:
    """An adapter in its slot."""

    stack: "Stack" = field(repr=False)
    number: int
    first_layer: int | None
    prefix_length: int

    @property
    def nbytes(self) -> int:
        return self.stack.slot_bytes


class Stack:
    """Adapters of one shape. They may come from any thread; `parts` may be read meanwhile."""

    def __init__(self, like: Adaptation, dtype: torch.dtype, upload: Upload) -> None:
        self._like = _changed(like, lambda tensor: tensor.to("meta"))
        self._upload = upload
        self._lock = Lock()
        self._free: list[int] = []
        self._hold(torch.empty(0, sum(_room(tensor) for tensor in like.tensors()), dtype=dtype, device=upload.device))

    def _hold(self, memory: Tensor) -> None:
        self._memory = memory  # [slots, numbers]
        # Each tensor of an adapter, of all slots: [slots, ·]. Never changed, only replaced by a longer one.
        self.parts = _arranged(memory, self._like)

    @property
    def slots(self) -> int:
        return len(self._memory)

    @property
    def slot_bytes(self) -> int:
        return self._memory.shape[1] * self._memory.itemsize

    def take(self, adaptation: Adaptation) -> Slotted:
        """Copies an adapter of this shape into a slot of its own."""
        content = _laid_out(adaptation, self._memory.dtype)
        with self._lock:
            if not self._free:
                self._grow()
            taken = Slotted(self, self._free.pop(), adaptation.first_layer, adaptation.prefix_length)
            # No lock there: it may run in the middle of anything.
            finalize(taken, self._free.append, taken.number).atexit = False
            self._upload.fill(self._memory[taken.number], content)
        return taken

    def _grow(self) -> None:
        before, slots = self._memory, max(FIRST, 2 * self.slots)
        longer = before.new_empty(slots, before.shape[1])
        self._upload.fill(longer[: len(before)], before)
        self._hold(longer)
        self._free.extend(range(len(before), slots))


class Slots:
    """The stacks of one base. A stack whose last adapter goes takes its memory along."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self._dtype = dtype
        self._upload = Upload(device)
        self._lock = Lock()
        self._stacks: WeakValueDictionary[Hashable, Stack] = WeakValueDictionary()

    def place(self, adaptation: Adaptation) -> Slotted | Adaptation:
        """The adapter in a slot; one without tensors stays the bare base."""
        if adaptation.first_layer is None:
            return BARE
        wide = widened(adaptation)
        shape = _shape(wide)
        with self._lock:
            stack = self._stacks.get(shape)
            if stack is None:
                stack = self._stacks[shape] = Stack(wide, self._dtype, self._upload)
        return stack.take(wide)


def widened(adaptation: Adaptation) -> Adaptation:
    """The same adapter, with zeros up to the next multiple of `NARROW` in bottlenecks and ranks; its parts sorted."""

    def bottleneck(part: Bottleneck) -> Bottleneck:
        more = -len(part.down) % NARROW
        down, down_bias = F.pad(part.down, (0, 0, 0, more)), F.pad(part.down_bias, (0, more))
        return part._replace(down=down, down_bias=down_bias, up=F.pad(part.up, (0, more)))

    def low_rank(part: LowRank) -> LowRank:
        more = -len(part.down) % NARROW
        return LowRank(F.pad(part.down, (0, 0, 0, more)), F.pad(part.up, (0, more)))

    return Adaptation(
        bottlenecks={site: bottleneck(part) for site, part in sorted(adaptation.bottlenecks.items())},
        low_ranks={site: low_rank(part) for site, part in sorted(adaptation.low_ranks.items())},
        prefixes=dict(sorted(adaptation.prefixes.items())),
        norms=dict(sorted(adaptation.norms.items())),
    )


def _shape(adaptation: Adaptation) -> Hashable:
    """What adapters of one stack have in common: which parts, where, and how large."""

    def shape(part: Any) -> Hashable:
        return type(part), *(tuple(item.shape) if isinstance(item, Tensor) else item for item in part)

    fields = (adaptation.bottlenecks, adaptation.low_ranks, adaptation.prefixes, adaptation.norms)
    return tuple((site, shape(part)) for site, part in chain.from_iterable(parts.items() for parts in fields))


def _room(tensor: Tensor) -> int:
    return -(-tensor.numel() // LINE) * LINE


def _laid_out(adaptation: Adaptation, dtype: torch.dtype) -> Tensor:
    """All numbers of an adapter, as a slot holds them: [numbers]."""
    flat = (tensor.detach().to(dtype).reshape(-1) for tensor in adaptation.tensors())
    return torch.cat([F.pad(numbers, (0, -len(numbers) % LINE)) for numbers in flat])


def _arranged(memory: Tensor, like: Adaptation) -> Adaptation:
    """Views of the memory [slots, numbers] by part, each [slots, ·]."""
    start = 0

    def view(tensor: Tensor) -> Tensor:
        nonlocal start
        found = memory[:, start : start + tensor.numel()].view(-1, *tensor.shape)
        start += _room(tensor)
        return found

    return _changed(like, view)


def _changed(adaptation: Adaptation, change: Callable[[Tensor], Tensor]) -> Adaptation:
    """The same parts of other tensors; they are asked for in the order of `Adaptation.tensors`."""

    def changed(part: Any) -> Any:
        return type(part)(*(change(item) if isinstance(item, Tensor) else item for item in part))

    return Adaptation(
        bottlenecks={site: changed(part) for site, part in adaptation.bottlenecks.items()},
        low_ranks={site: changed(part) for site, part in adaptation.low_ranks.items()},
        prefixes={layer: changed(part) for layer, part in adaptation.prefixes.items()},
        norms={site: changed(part) for site, part in adaptation.norms.items()},
    )
