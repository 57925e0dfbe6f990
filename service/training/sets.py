"""Examples as the encoder reads them, with their labels as numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from service.adapters.manifest import Manifest
from service.engine.base_model import BaseModel
from service.errors import BadData
from service.tasks import Kind, Label, Labelled, Reading, TokenizedRow, kind_of, read_for
from service.training.data import Example
from service.training.formats import place

CHUNK = 1024  # inputs whose tokens are in memory at once, where they are only counted


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


class Unfit(ValueError):
    """An example is not what the task reads and answers."""

    def __init__(self, number: int, example: Example, cause: str) -> None:
        super().__init__(f"row {number}: {cause}")
        self._line, self._cause = example.line, cause

    def of(self, path: Path) -> BadData:
        """The same, with the file that the example stands in, and its line there."""
        return BadData(f"{place(path, self._line)}: {self._cause}" if self._line else f"{path}: {self}")


def check_examples(manifest: Manifest, examples: Sequence[Example]) -> None:
    """Whether examples are what the task reads and answers.

    Raises:
        Unfit: a label that does not belong to the task, or one text where it reads two.
    """
    for number, example in enumerate(examples, start=1):
        if (example.text_pair is not None) != manifest.head.pair:
            raise Unfit(number, example, f"the task reads {'two texts' if manifest.head.pair else 'one text'}")
        try:
            kind_of(manifest).check_label(manifest, example.label)
        except ValueError as error:
            raise Unfit(number, example, str(error)) from error


def prepare(base: BaseModel, manifest: Manifest, examples: Sequence[Example]) -> Set:
    """Tokenises examples and turns their labels to numbers.

    Raises:
        Unfit: as `check_examples`.
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


def count_cut(base: BaseModel, kind: Kind, examples: Sequence[Example], max_length: int) -> int:
    """How many inputs are longer than `max_length` tokens, and will be cut."""
    if kind.windowed or not examples:
        return 0
    pair = examples[0].text_pair is not None
    room = max_length - base.tokenizer.num_special_tokens_to_add(pair)
    count = 0
    for start in range(0, len(examples), CHUNK):
        chunk = examples[start : start + CHUNK]
        firsts = base.tokenizer.encode_batch([one.text for one in chunk], add_special_tokens=False)
        seconds = base.tokenizer.encode_batch([one.text_pair or "" for one in chunk], add_special_tokens=False)
        count += sum(len(first) + len(second) > room for first, second in zip(firsts, seconds, strict=True))
    return count
