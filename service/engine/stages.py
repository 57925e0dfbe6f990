"""Which rows are one row, and up to which layer.

Below an adapter's first layer its row is the bare base's row of that text. So all tasks that are asked for one text
share it there, and tasks of method head share it to the end (after AdapterDrop, Rücklé et al. 2021, arXiv 2010.11918).
"""

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from service.adapters.methods import BARE, Adaptation
from service.engine.encoder import Group, Stage
from service.engine.native import NativeAdaptation
from service.engine.packing import pack
from service.engine.slots import Slotted
from service.tasks import TokenizedRow

Ints = NDArray[np.int64]


class Asked(NamedTuple):
    """A row as it was asked for; of one adaptation, those with the same `owner` shall lie together."""

    tokens: TokenizedRow
    adaptation: Adaptation | NativeAdaptation | Slotted
    owner: int


class Plan(NamedTuple):
    stages: list[Stage]
    spans: list[tuple[int, int]]  # for each row asked for, its tokens [from, to) after the last stage


class _Row(NamedTuple):
    """One row of a stage: one that was asked for, or the trunk that several go on from."""

    asked: Asked
    key: object  # tells rows of one stage apart
    trunk: object  # the key of the trunk that it was, or is


def plan(rows: Sequence[Asked], layers: int) -> Plan:
    """What to compute for these rows in a base of so many layers: each distinct row once in each layer."""
    branches = [_branch(row, layers) for row in rows]
    trunks: list[object] = [
        (row.tokens.ids.tobytes(), row.tokens.types.tobytes()) if branch else None
        for row, branch in zip(rows, branches, strict=True)
    ]
    stages: list[Stage] = []
    places: dict[object, tuple[int, int]] = {}
    for first, end in pairwise(sorted({0, layers, *branches})):
        found: dict[object, _Row] = {}
        for number, (row, branch, trunk) in enumerate(zip(rows, branches, trunks, strict=True)):
            if branch <= first:
                found[number] = _Row(row, number, trunk)
            else:
                found.setdefault(trunk, _Row(Asked(row.tokens, BARE, 0), trunk, trunk))
        ordered = sorted(found.values(), key=_order)
        take = _take(ordered, places) if stages else None
        places = dict(_places(ordered))
        batch = pack([row.asked.tokens for row in ordered], [row.asked.adaptation.prefix_length for row in ordered])
        stages.append(Stage(range(first, end), batch, list(_groups(ordered)), take))
    return Plan(stages, [places[number] if number in places else places[trunk] for number, trunk in enumerate(trunks)])


def _branch(row: Asked, layers: int) -> int:
    """The layer from which a row is its adapter's alone."""
    first = row.adaptation.first_layer
    return layers if first is None else first


def _order(row: _Row) -> tuple[int, int, int, int]:
    """Neighbours share a stack, an adapter, then a head; equal lengths stand together for attention's sake."""
    adaptation = row.asked.adaptation
    stack = id(adaptation.stack) if isinstance(adaptation, Slotted) else 0
    return stack, id(adaptation), row.asked.owner, len(row.asked.tokens)


def _places(rows: Sequence[_Row]) -> Iterator[tuple[object, tuple[int, int]]]:
    start = 0
    for row in rows:
        yield row.key, (start, start + len(row.asked.tokens))
        start += len(row.asked.tokens)


def _take(rows: Sequence[_Row], before: dict[object, tuple[int, int]]) -> torch.Tensor | None:
    spans = [before.get(row.key) or before[row.trunk] for row in rows]
    taken: Ints = np.concatenate([np.arange(*span) for span in spans])
    unmoved = len(taken) == max(end for _, end in before.values()) and bool((np.diff(taken) == 1).all())
    return None if unmoved else torch.from_numpy(taken)


def _groups(rows: Sequence[_Row]) -> Iterator[Group]:
    row = token = 0
    for _, mine in groupby(rows, key=lambda row: id(row.asked.adaptation)):
        members = [member.asked for member in mine]
        last_row, last_token = row + len(members), token + sum(len(member.tokens) for member in members)
        yield Group(slice(row, last_row), slice(token, last_token), members[0].adaptation)
        row, token = last_row, last_token
