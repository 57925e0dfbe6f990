"""Measuring what answers: an adapter file on this machine, or anything else that takes inputs and gives answers."""

from collections.abc import Callable, Sequence
from pathlib import Path

from service.adapters.manifest import Manifest
from service.engine.bank import Resident
from service.engine.base_model import BaseModel
from service.engine.engine import Engine, Row
from service.errors import BadData
from service.tasks import Answer, Given, kind_of, read_for
from service.training.data import Columns, read_examples
from service.training.measure import Measured, measure_answers
from service.training.sets import check_examples

GUESSED = Columns()
BATCH = 64  # inputs asked at once

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
    except ValueError as error:
        raise BadData(f"{path}: {error}") from error
    inputs = [example.given for example in examples]
    answers = [answer for start in range(0, len(inputs), BATCH) for answer in ask(inputs[start : start + BATCH])]
    return measure_answers(manifest, answers, [example.label for example in examples], metric)


def asking(base: BaseModel, resident: Resident) -> Ask:
    """Answers by the engine of this process, as the service gives them."""
    engine, manifest = Engine(base), resident.manifest

    def ask(inputs: Sequence[Given]) -> list[Answer]:
        readings = read_for(manifest, base.tokenizer, inputs)
        outputs = iter(engine.run([Row(row, resident) for reading in readings for row in reading.rows]))
        return [
            resident.kind.decode(manifest, reading, [next(outputs) for _ in reading.rows]).answer
            for reading in readings
        ]

    return ask
