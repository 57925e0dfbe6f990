"""The heads of all rows of a batch, whatever their tasks: from token vectors to raw outputs."""

from collections.abc import Sequence
from itertools import groupby
from math import prod

import numpy as np
import torch
from torch import Tensor

from service.engine import native
from service.engine.bank import Resident
from service.engine.device import sent
from service.tasks import Floats

Span = tuple[int, int]  # tokens [from, to) of a packed batch


def by_kernels(residents: Sequence[Resident], hidden: Tensor, spans: Sequence[Span]) -> list[Floats]:
    """Raw outputs by row, all in one call.

    Args:
        residents: of each row.
        hidden: token vectors, [tokens, hidden].
        spans: each row's tokens.
    """
    asked: list[tuple[int, int, int, int, int]] = []
    shapes: list[tuple[int, ...]] = []
    for (start, end), resident in zip(spans, residents, strict=True):
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


def by_torch(residents: Sequence[Resident], hidden: Tensor, spans: Sequence[Span]) -> list[Floats]:
    """As `by_kernels`, in torch's operators.

    What the heads read is made on the vectors' device, for all tasks that read alike at once; the heads themselves are
    small, and run on the host.
    """
    by_resident = sorted(range(len(spans)), key=lambda number: (*_reads(residents[number]), id(residents[number])))
    found: dict[int, Floats] = {}
    for (per_token, _), alike in groupby(by_resident, key=lambda number: _reads(residents[number])):
        numbers = list(alike)
        lengths = [spans[number][1] - spans[number][0] for number in numbers]
        tokens = sent(torch.cat([torch.arange(*spans[number]) for number in numbers]), hidden.device)
        reader = residents[numbers[0]]
        features = reader.kind.features(
            reader.manifest.head,
            hidden.index_select(0, tokens).float(),
            sent(torch.tensor(lengths), hidden.device),
        )
        each = torch.split(features.cpu(), lengths if per_token else 1)
        for _, same in groupby(zip(numbers, each, strict=True), key=lambda one: id(residents[one[0]])):
            mine, read = zip(*same, strict=True)
            resident = residents[mine[0]]
            outputs = resident.kind.outputs(resident.head, torch.cat(read))
            parts = torch.split(outputs, [len(part) for part in read]) if per_token else outputs.unbind()
            found.update(zip(mine, (part.numpy() for part in parts), strict=True))
    return [found[number] for number in range(len(spans))]


def _reads(resident: Resident) -> tuple[bool, str]:
    """What decides the features of a head, whatever the task."""
    return resident.kind.per_token, resident.manifest.head.pooling
