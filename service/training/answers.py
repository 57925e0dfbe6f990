"""What a model answers to a set of examples, batch by batch."""

from collections.abc import Sequence

from service.adapters.manifest import Manifest
from service.tasks import Answer, Floats, kind_of
from service.training.batches import by_tokens
from service.training.models import Model
from service.training.sets import Set
from service.training.workers import Workers

BATCH_TOKENS = 2048


def raw_outputs(model: Model, examples: Set, workers: Workers) -> list[list[Floats]]:
    """Raw outputs by reading and row, without gradients or dropout."""
    rows = examples.rows
    lengths = [len(row) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: lengths[i])
    batches = list(by_tokens(order, lengths, BATCH_TOKENS))
    outputs = workers.map(lambda batch: model.by_row([rows[i] for i in batch]), batches)
    found = {
        i: output
        for batch, by_row in zip(batches, outputs, strict=True)
        for i, output in zip(batch, by_row, strict=True)
    }
    numbers = iter(range(len(rows)))
    return [[found[next(numbers)] for _ in reading.rows] for reading in examples.readings]


def decoded(manifest: Manifest, examples: Set, raw: Sequence[Sequence[Floats]]) -> list[Answer]:
    """The answers that raw outputs come to."""
    kind = kind_of(manifest)
    return [kind.decode(manifest, reading, rows).answer for reading, rows in zip(examples.readings, raw, strict=True)]
