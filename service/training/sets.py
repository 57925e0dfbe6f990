"""Examples as the encoder reads them, with their labels as numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from service.adapters.manifest import Manifest
from service.engine.base_model import BaseModel
from service.tasks import Label, Labelled, Reading, TokenizedRow, kind_of, read_for
from service.training.data import Example


@dataclass(frozen=True)
class Set:
    """Examples as the encoder reads them: a row, or several windows, for each."""

    readings: list[Reading]
    labels: list[Label]
    rows: list[TokenizedRow]  # of all readings, one after another
    targets: list[Tensor]  # for each row

    @property
    def labelled(self) -> Labelled:
        return Labelled(self.readings, self.labels)


def check_examples(manifest: Manifest, examples: Sequence[Example]) -> None:
    """Whether examples are what the task reads and answers.

    Raises:
        ValueError: a label that does not belong to the task, or one text where it reads two; with its row.
    """
    for number, example in enumerate(examples, start=1):
        if (example.text_pair is not None) != manifest.head.pair:
            raise ValueError(f"row {number}: the task reads {'two texts' if manifest.head.pair else 'one text'}")
        try:
            kind_of(manifest).check_label(manifest, example.label)
        except ValueError as error:
            raise ValueError(f"row {number}: {error}") from error


def prepare(base: BaseModel, manifest: Manifest, examples: Sequence[Example]) -> Set:
    """Tokenises examples and turns their labels to numbers.

    Raises:
        ValueError: as `check_examples`.
    """
    check_examples(manifest, examples)
    kind = kind_of(manifest)
    readings = read_for(manifest, base.tokenizer, [example.given for example in examples])
    labels = [example.label for example in examples]
    targets = [
        target
        for reading, label in zip(readings, labels, strict=True)
        for target in kind.targets(manifest, reading, label)
    ]
    return Set(readings, labels, [row for reading in readings for row in reading.rows], targets)
