"""The engine: rows of any tasks in, each row's raw outputs out, by one pass of the base."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
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
            return self._heads(rows, encode_stages(self.base.weights, stages), spans)

    def _heads(self, rows: Sequence[Row], hidden: Tensor, spans: Sequence[Span]) -> list[Floats]:
        """Raw outputs by row, from the token vectors [tokens, hidden] that each row's span names."""
        by_resident: dict[Resident, list[int]] = defaultdict(list)
        for number, row in enumerate(rows):
            by_resident[row.resident].append(number)
        pooled = self._pooled(by_resident, hidden, spans)
        found: dict[int, Floats] = {}
        for resident, mine in by_resident.items():
            kind = resident.kind
            if kind.per_token:
                vectors = [hidden[slice(*spans[number])] for number in mine]
                outputs = kind.outputs(resident.head, torch.cat(vectors).float())
                parts = torch.split(outputs, [len(part) for part in vectors])
            else:
                parts = kind.outputs(resident.head, pooled[resident]).unbind()
            found.update(zip(mine, (part.numpy() for part in parts), strict=True))
        return [found[number] for number in range(len(rows))]

    def _pooled(
        self, by_resident: Mapping[Resident, Sequence[int]], hidden: Tensor, spans: Sequence[Span]
    ) -> dict[Resident, Tensor]:
        """One vector a row, [rows, hidden], for every resident whose head reads that; all computed at once."""
        wanted: list[Span] = []
        sizes = {}
        for resident, mine in by_resident.items():
            if not resident.kind.per_token:
                first = resident.manifest.head.pooling == "first"
                wanted += [(start, start + 1 if first else end) for start, end in (spans[number] for number in mine)]
                sizes[resident] = len(mine)
        if not sizes:
            return {}
        means = (native.mean_of if self.base.weights.native is not None else _mean_of)(hidden, np.array(wanted))
        return dict(zip(sizes, torch.split(means, list(sizes.values())), strict=True))


def _mean_of(hidden: Tensor, spans: NDArray[np.int64]) -> Tensor:
    """The mean of the tokens of `hidden` [tokens, size] in each span: [spans, size], in float32."""
    parts = torch.cat([hidden[start:end] for start, end in spans.tolist()]).float()
    return torch.segment_reduce(parts, "mean", lengths=torch.from_numpy(spans[:, 1] - spans[:, 0]))
