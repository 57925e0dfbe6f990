"""The engine: rows of any tasks in, each row's raw outputs out, by one pass of the base."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from service.engine.bank import Resident
from service.engine.base_model import BaseModel
from service.engine.encoder import encode_stages
from service.engine.stages import Asked, plan
from service.tasks import Floats, TokenizedRow


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

    def _heads(self, rows: Sequence[Row], hidden: Tensor, spans: Sequence[tuple[int, int]]) -> list[Floats]:
        """Raw outputs by row, from the token vectors [tokens, hidden] that each row's span names."""
        by_resident: dict[Resident, list[int]] = defaultdict(list)
        for number, row in enumerate(rows):
            by_resident[row.resident].append(number)
        found: dict[int, Floats] = {}
        for resident, mine in by_resident.items():
            lengths = [len(rows[number].tokens) for number in mine]
            vectors = torch.cat([hidden[slice(*spans[number])] for number in mine]).float()
            features = resident.kind.features(resident.manifest.head, vectors, torch.tensor(lengths))
            outputs = resident.kind.outputs(resident.head, features)
            parts = torch.split(outputs, lengths) if resident.kind.per_token else outputs
            found.update(zip(mine, (part.numpy() for part in parts), strict=True))
        return [found[number] for number in range(len(rows))]
