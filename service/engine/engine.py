"""The engine: rows of any tasks in, each row's raw outputs out, by one pass of the base."""

from collections import defaultdict
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from service.engine import native
from service.engine.bank import Resident
from service.engine.base_model import BaseModel
from service.engine.encoder import encode_stages
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
    """Raw outputs by row, from the token vectors [tokens, hidden] that each row's span names."""
    by_resident: dict[Resident, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        by_resident[row.resident].append(number)
    found: dict[int, Floats] = {}
    for resident, mine in by_resident.items():
        lengths = [spans[number][1] - spans[number][0] for number in mine]
        vectors = torch.cat([hidden[slice(*spans[number])] for number in mine]).float()
        features = resident.kind.features(resident.manifest.head, vectors, torch.tensor(lengths))
        outputs = resident.kind.outputs(resident.head, features)
        parts = torch.split(outputs, lengths) if resident.kind.per_token else outputs.unbind()
        found.update(zip(mine, (part.numpy() for part in parts), strict=True))
    return [found[number] for number in range(len(rows))]
