"""The engine: rows of any tasks in, each row's raw outputs out, by one pass of the base."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from service.adapters.methods import Adaptation
from service.engine.bank import Resident
from service.engine.base_model import BaseModel
from service.engine.encoder import Group, encode
from service.engine.packing import pack
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
        # Neighbours share an adapter, then a head; equal lengths stand together for attention's sake.
        order = sorted(range(len(rows)), key=lambda i: _place(rows[i]))
        ordered = [rows[i] for i in order]
        answers: list[Floats | None] = [None] * len(rows)
        with torch.inference_mode():
            outputs = self._heads(ordered, self._hidden(ordered))
            for i, output in zip(order, outputs, strict=True):
                answers[i] = output
        return answers  # type: ignore[return-value]  # every place is filled: `order` is a permutation

    def _hidden(self, rows: Sequence[Row]) -> Tensor:
        """Token vectors of all rows, [tokens, hidden], from the one pass."""
        batch = pack([row.tokens for row in rows], [row.resident.adaptation.prefix_length for row in rows])
        return encode(self.base.weights, batch, _groups(rows))

    def _heads(self, rows: Sequence[Row], hidden: Tensor) -> list[Floats]:
        outputs: list[Floats] = []
        first = 0
        for resident, mine in groupby(rows, key=lambda row: row.resident):
            lengths = [len(row.tokens) for row in mine]
            vectors = hidden[first : first + sum(lengths)].float()
            features = resident.kind.features(resident.manifest.head, vectors, torch.tensor(lengths))
            found = resident.kind.outputs(resident.head, features)
            outputs.extend(part.numpy() for part in (found.split(lengths) if resident.kind.per_token else found))
            first += sum(lengths)
        return outputs


def _place(row: Row) -> tuple[int, int, int]:
    return id(row.resident.adaptation), id(row.resident), len(row.tokens)


def _groups(rows: Sequence[Row]) -> list[Group]:
    groups: list[Group] = []
    row = token = 0
    for _, mine in groupby(rows, key=lambda row: id(row.resident.adaptation)):
        members = list(mine)
        last_row, last_token = row + len(members), token + sum(len(member.tokens) for member in members)
        adaptation: Adaptation = members[0].resident.adaptation
        groups.append(Group(slice(row, last_row), slice(token, last_token), adaptation))
        row, token = last_row, last_token
    return groups
