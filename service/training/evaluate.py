"""Measuring what answers: an adapter file on this machine, or anything else that takes inputs and gives answers."""

from collections.abc import Callable, Sequence
from pathlib import Path

from service.adapters.manifest import Manifest
from service.engine.bank import Resident
from service.engine.base_model import BaseModel
from service.engine.engine import Engine, Row
from service.errors import BadData
from service.tasks import Answer, Floats, Given, TokenizedRow, kind_of, read_for
from service.training.batches import by_tokens
from service.training.columns import GUESSED, Columns
from service.training.data import read_examples
from service.training.measure import Measured, measure_answers
from service.training.sets import Unfit, check_examples

BATCH = 64  # inputs asked at once
BATCH_TOKENS = 2048  # in one pass of the base, as the service has it

Ask = Callable[[Sequence[Given]], Sequence[Answer]]


def evaluate(
    manifest: Manifest, path: Path, ask: Ask, columns: Columns = GUESSED, metric: str | None = None
) -> Measured:
    """Asks for every example of a labelled file, and measures the answers.

    Raises:
        BadData: the file is wrong, or is not of this task.
    """
    kind = kind_of(manifest)
    if not kind.metrics:
        raise BadData(f"kind {kind.name} has no right answers to be measured by")
    if metric is not None and metric not in kind.metrics:
        raise BadData(f"kind {kind.name} is not measured by {metric}; choose one of {', '.join(kind.metrics)}")
    examples = read_examples(path, columns, manifest.kind)
    try:
        check_examples(manifest, examples)
    except Unfit as error:
        raise error.of(path) from error
    inputs = [example.given for example in examples]
    answers = [answer for start in range(0, len(inputs), BATCH) for answer in ask(inputs[start : start + BATCH])]
    return measure_answers(manifest, answers, [example.label for example in examples], metric)


class Asked:
    """Answers by the engine of this process, as the service gives them."""

    def __init__(self, base: BaseModel, resident: Resident) -> None:
        self._engine, self._resident = Engine(base), resident
        self.cut = 0  # inputs so far that were longer than the task reads

    def __call__(self, inputs: Sequence[Given]) -> list[Answer]:
        manifest, kind = self._resident.manifest, self._resident.kind
        readings = read_for(manifest, self._engine.base.tokenizer, inputs)
        self.cut += sum(reading.truncated for reading in readings)
        outputs = iter(self._outputs([row for reading in readings for row in reading.rows]))
        return [kind.decode(manifest, reading, [next(outputs) for _ in reading.rows]).answer for reading in readings]

    def _outputs(self, rows: Sequence[TokenizedRow]) -> list[Floats]:
        """By row; long inputs have many windows, so that a pass is bounded by tokens and not by inputs."""
        lengths = [len(row) for row in rows]
        order = sorted(range(len(rows)), key=lambda i: lengths[i])
        found: dict[int, Floats] = {}
        for batch in by_tokens(order, lengths, BATCH_TOKENS):
            found.update(zip(batch, self._engine.run([Row(rows[i], self._resident) for i in batch]), strict=True))
        return [found[i] for i in range(len(rows))]


def asking(base: BaseModel, resident: Resident) -> Asked:
    """An adapter on this machine, ready to be asked."""
    return Asked(base, resident)
