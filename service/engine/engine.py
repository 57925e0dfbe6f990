"""The engine: rows of any tasks in, each row's raw outputs out, by one pass of the base."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from service.engine.bank import Resident
from service.engine.base_model import BaseModel
from service.engine.encoder import encode_stages
from service.engine.heads import by_kernels, by_torch
from service.engine.slots import on_device
from service.engine.stages import Asked, plan
from service.tasks import Floats, TokenizedRow


class Row(NamedTuple):
    """One input of one task, bound to the version that answers it."""

    tokens: TokenizedRow
    resident: Resident


def ran_out_of_memory(error: Exception) -> bool:
    """Whether a batch failed for want of memory, Python's or that of a device: a smaller one may not."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)  # torch has no type for this one


class Engine:
    """Holds the base; owns no thread and no queue. One caller at a time."""

    def __init__(self, base: BaseModel) -> None:
        self.base = base

    def run(self, rows: Sequence[Row]) -> list[Floats]:
        """Raw outputs of the heads, in the order of `rows`; any tasks, kinds, methods and lengths together.

        Returns:
            for each row [width], or [tokens, width] where the kind's head reads every token.
        """
        if not rows:
            return []
        with torch.inference_mode():
            asked = [Asked(row.tokens, row.resident.adaptation, id(row.resident)) for row in rows]
            stages, spans = plan(asked, self.base.dims.layers)
            if self.base.weights.slots is not None:
                stages = on_device(stages, self.base.weights.slots.device)
            hidden = encode_stages(self.base.weights, stages)
            heads = by_kernels if self.base.weights.native is not None else by_torch
            return heads([row.resident for row in rows], hidden, spans)
