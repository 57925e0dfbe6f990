"""Labelled data: from a file's rows to inputs with their labels, whatever the labels are for."""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from service.adapters.manifest import KindName
from service.errors import BadData
from service.tasks import Given, Label
from service.training.cells import answers_of, either_of, entities_of, label_of, labels_of, passage_of, text_of
from service.training.columns import GUESSED, Columns, Layout, find_layout
from service.training.formats import Row, place, read_rows
from service.training.tags import join

LABELS: dict[str, Callable[[Row, str], Label]] = {"label": label_of, "labels": labels_of, "either": either_of}


@dataclass(frozen=True, slots=True)
class Example:
    """One input with its label; for kind answer the question is the text, its passage the pair."""

    text: str
    text_pair: str | None
    label: Label
    # Where it stands in its file, 0 where unknown; no part of what it is, so neither compared nor shown.
    line: int = field(default=0, compare=False, repr=False)

    @property
    def given(self) -> Given:
        return Given(self.text, self.text_pair)


def read_examples(path: Path, columns: Columns = GUESSED, kind: KindName | None = None) -> list[Example]:
    """Reads a data file; a pair column makes it a set of pairs.

    Args:
        kind: what the labels are meant for, where it is known: one cell of a table can hold several labels only for
            multilabel.

    Raises:
        BadData: naming the file, and the line where it can.
    """
    rows = list(read_rows(path))
    if not rows:
        raise BadData(f"{path}: no rows")
    layout = find_layout(path, [row for _, row in rows], columns, kind)
    examples = []
    for line, row in rows:
        try:
            examples.append(_example(row, layout, line))
        except ValueError as error:
            raise BadData(f"{place(path, line)}: {error}") from error
    return examples


def _example(row: Row, layout: Layout, line: int) -> Example:
    for column in layout.columns:
        if column not in row:
            raise ValueError(f"column {column} is missing")
    if layout.form == "entities":
        text, spans = entities_of(row, layout.text, layout.label)
        return Example(text, None, spans, line)
    if layout.form == "answers":
        passage = passage_of(row, layout.pair or "")
        return Example(text_of(row, layout.text), passage, answers_of(row, layout.label, passage), line)
    pair = text_of(row, layout.pair) if layout.pair else None
    return Example(text_of(row, layout.text), pair, LABELS[layout.form](row, layout.label), line)


def tagged(words: Sequence[str], tags: Sequence[str]) -> Example:
    """Words with BIO tags, as one text with spans.

    Raises:
        ValueError: as `tags.join`.
    """
    text, spans = join(words, tags)
    return Example(text, None, spans)


def split(examples: Sequence[Example], share: float, seed: int, stratify: bool) -> tuple[list[Example], list[Example]]:
    """Sets `share` of the examples aside, at random but repeatably; each one for itself.

    The parts of the experiment's data sets come from here (`benchmarks/data_sets.py`), and must stay what they are; a
    training sets its validation rows aside with more care (`splitting.set_aside`).

    Where `stratify`, by label: each gives its share, and at least one example if it has two.

    Returns:
        (what stays, what was set aside), each in its first order.
    """
    groups: dict[Label, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        groups[example.label if stratify else ""].append(index)
    generator = random.Random(seed)
    aside: set[int] = set()
    for members in groups.values():
        aside.update(generator.sample(members, max(round(len(members) * share), min(1, len(members) - 1))))
    return (
        [example for index, example in enumerate(examples) if index not in aside],
        [example for index, example in enumerate(examples) if index in aside],
    )
