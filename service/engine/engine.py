"""The engine: rows of any tasks in, each row's raw outputs out, by one pass of the base."""

from collections.abc import Sequence
from itertools import groupby
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from service.engine import native
from service.engine.bank import Resident
from service.engine.base_model import BaseModel
from service.engine.device import sent
from service.engine.encoder import encode_stages
from service.engine.slots import on_device
from service.engine.stages import Asked, plan
from service.tasks import Floats, TokenizedRow

Span = tuple[int, int]  # tokens [from, to) of a packed batch


class Row(NamedTuple):
    """One input of one task, bound to the version that answers it."""

    tokens: TokenizedRow
    resident: Resident


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
            heads = _heads if self.base.weights.native is None else self._native_heads
            return heads(rows, hidden, spans)

    def _native_heads(self, rows: Sequence[Row], hidden: Tensor, spans: Sequence[Span]) -> list[Floats]:
        """As `_heads`, all of them in one call."""
        asked: list[tuple[int, int, int, int, int]] = []
        shapes: list[tuple[int, ...]] = []
        for (start, end), resident in zip(spans, (row.resident for row in rows), strict=True):
            weight, bias = resident.head_addresses
            width = resident.kind.width(resident.manifest) if weight else hidden.shape[1]
            if resident.kind.per_token:
                asked += [(token, token + 1, weight, bias, width) for token in range(start, end)]
                shapes.append((end - start, width))
            else:
                first = resident.manifest.head.pooling == "first"
                asked.append((start, start + 1 if first else end, weight, bias, width))
                shapes.append((width,))
        found = native.heads(hidden, np.array(asked))
        parts = np.split(found, np.cumsum([prod(shape) for shape in shapes[:-1]]))
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _heads(rows: Sequence[Row], hidden: Tensor, spans: Sequence[Span]) -> list[Floats]:
    """Raw outputs by row, from the token vectors [tokens, hidden] that each row's span names.

    What the heads read is made on the vectors' device, for all tasks that read alike at once; the heads themselves are
    small, and run on the host.
    """
    by_resident = sorted(range(len(rows)), key=lambda number: (*_reads(rows[number]), id(rows[number].resident)))
    found: dict[int, Floats] = {}
    for (per_token, _), alike in groupby(by_resident, key=lambda number: _reads(rows[number])):
        numbers = list(alike)
        lengths = [spans[number][1] - spans[number][0] for number in numbers]
        tokens = sent(torch.cat([torch.arange(*spans[number]) for number in numbers]), hidden.device)
        reader = rows[numbers[0]].resident
        features = reader.kind.features(
            reader.manifest.head,
            hidden.index_select(0, tokens).float(),
            sent(torch.tensor(lengths), hidden.device),
        )
        each = torch.split(features.cpu(), lengths if per_token else 1)
        for _, same in groupby(zip(numbers, each, strict=True), key=lambda one: id(rows[one[0]].resident)):
            mine, read = zip(*same, strict=True)
            resident = rows[mine[0]].resident
            outputs = resident.kind.outputs(resident.head, torch.cat(read))
            parts = torch.split(outputs, [len(part) for part in read]) if per_token else outputs.unbind()
            found.update(zip(mine, (part.numpy() for part in parts), strict=True))
    return [found[number] for number in range(len(rows))]


def _reads(row: Row) -> tuple[bool, str]:
    """What decides the features of a row's head, whatever the task."""
    return row.resident.kind.per_token, row.resident.manifest.head.pooling
