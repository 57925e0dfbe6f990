"""A data set's labels as a whole: what they are for, whether they can be learned, and what is doubtful about them."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from service.adapters.manifest import KindName
from service.errors import BadData
from service.tasks import Given, Label, Span
from service.tasks.regression import number
from service.training.cells import LABEL_SEPARATOR
from service.training.data import Example

FEW_VALUES = 20  # numbers with no more distinct values than this, all of them whole, are taken for classes
MOST = 0.9  # share of the labels from which the others are taken for mistakes
DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
SEPARATORS = re.compile(r"[|,;/]")  # that people write between several labels


def names_of(label: Label) -> list[str]:
    """The names in a label: its own, several labels', or those of spans."""
    parts = [label] if isinstance(label, str) else label
    return [part.label if isinstance(part, Span) else part for part in parts]


def infer_kind(examples: Sequence[Example], path: Path) -> KindName:
    """What a data set's labels are for: spans, answers, several labels, numbers, or one label out of a few.

    Raises:
        BadData: that is not to be seen; the error tells why.
    """
    labels = [example.label for example in examples]
    if not any(labels):
        raise BadData(
            f"{path}: no row has a label: every tag is O, or every list of entities, labels or answers is empty; "
            "name the column with --label, and what it is for with --kind"
        )
    if any(isinstance(part, Span) for label in labels for part in label):
        return "tagging" if examples[0].text_pair is None else "answer"
    if _stand_in_pairs(examples):
        raise BadData(
            f"{path}: the labels are words of the second texts; for answers in a passage name --kind answer, "
            "and otherwise the kind that is meant"
        )
    if not all(isinstance(label, str) for label in labels):
        return "multilabel"
    return "regression" if _are_numbers(examples, path) else "classification"


def check_labels(kind: KindName, examples: Sequence[Example], path: Path) -> None:
    """Whether the labels are something to learn.

    Raises:
        BadData: naming the file, and the line where one is to blame.
    """
    if kind == "regression":
        _check_numbers(examples, path)
        return
    found = {name for example in examples for name in names_of(example.label)}
    if not found:
        raise BadData(f"{path}: {'no question has an answer' if kind == 'answer' else 'no row has a label'}")
    if kind == "classification" and len(found) < 2:
        raise BadData(f"{path}: only one label, {min(found)!r}; classification needs at least two")
    if kind == "classification" and len(found) == len(examples) > FEW_VALUES:
        raise BadData(
            f"{path}: each of the {len(examples):,} rows has a label of its own; are the columns of text and label "
            "swapped? Name them with --text and --label"
        )


def doubts(kind: KindName, examples: Sequence[Example]) -> Iterator[str]:
    """What may be a mistake in the data and may be not, a sentence each."""
    found: dict[Given, set[object]] = defaultdict(set)
    for example in examples:
        label = example.label
        found[example.given].add(label if isinstance(label, str) else frozenset(label))
    if copies := len(examples) - len(found):
        torn = sum(len(labels) > 1 for labels in found.values())
        yield f"{copies:,} of {len(examples):,} rows are copies of others; inputs with contradicting labels: {torn:,}"
    spelt: dict[str, set[str]] = defaultdict(set)
    for example in examples if kind in ("classification", "multilabel", "tagging") else ():
        for name in names_of(example.label):
            spelt[name.casefold()].add(name)
    alike = [" and ".join(sorted(names)) for names in spelt.values() if len(names) > 1]
    if alike:
        yield f"labels that differ only by case are taken for different ones: {', '.join(alike[:5])}"
    names = {name for spellings in spelt.values() for name in spellings}
    if kind != "tagging" and (joined := sorted(name for name in names if _holds_others(name, names))):
        yield (
            f"labels that look like several: {', '.join(map(repr, joined[:5]))}; for several labels an input, name "
            f"--kind multilabel and separate them by {LABEL_SEPARATOR}"
        )
    if kind == "tagging":
        yield from _misplaced(examples)


def _holds_others(name: str, names: set[str]) -> bool:
    return any(part.strip() in names - {name} for part in SEPARATORS.split(name))


def _misplaced(examples: Sequence[Example]) -> Iterator[str]:
    """Whether entities are cut off, as where places count from 1, or an end is its entity's last character."""
    spans = [(example, span) for example in examples for span in example.label if isinstance(span, Span)]
    cut = [(example, span) for example, span in spans if _is_cut(example.text, span)]
    if cut:
        example, span = cut[0]
        yield (
            f"{len(cut):,} of {len(spans):,} entities begin or end within a word or with a space, as "
            f"{example.text[span.start : span.end]!r} in line {example.line}; places count from 0, an end is the place "
            "behind the entity"
        )


def _is_cut(text: str, span: Span) -> bool:
    """Scripts that put no space between words are left alone."""
    inside = text[span.start : span.end]
    edges = text[max(0, span.start - 1) : span.start + 1], text[span.end - 1 : span.end + 1]
    return inside != inside.strip() or (" " in text and any(len(edge) == 2 and edge.isalpha() for edge in edges))


def _are_numbers(examples: Sequence[Example], path: Path) -> bool:
    """Whether labels are numbers to be told, and not names of classes."""
    values = [_value(example) for example in examples]
    known = [value for value in values if value is not None]
    distinct = set(known)
    commas = [example for example in examples if DECIMAL_COMMA.fullmatch(str(example.label))]
    if len({example.label for example in commas}) > FEW_VALUES and len(known) + len(commas) >= MOST * len(values):
        first = commas[0]
        raise BadData(
            f"{path}:{first.line}: {first.label!r} has a comma, where a number has a point, and so have "
            f"{len(commas):,} of {len(values):,} labels; mend them, or name the --kind"
        )
    if len(known) < MOST * len(values) or (len(distinct) <= FEW_VALUES and all(map(float.is_integer, distinct))):
        return False
    if len(known) < len(values):
        first = examples[values.index(None)]
        raise BadData(
            f"{path}:{first.line}: {first.label!r} is no number; {len(known):,} of {len(values):,} labels are; "
            "mend it, or name the --kind"
        )
    return True


def _value(example: Example) -> float | None:
    try:
        return number(example.label)
    except ValueError:
        return None


def _check_numbers(examples: Sequence[Example], path: Path) -> None:
    values = set()
    for example in examples:
        try:
            values.add(number(example.label))
        except ValueError as error:
            raise BadData(f"{path}:{example.line}: regression needs numbers: {error}") from error
    if len(values) < 2:
        raise BadData(f"{path}: regression needs numbers that are not all the same")


def _stand_in_pairs(examples: Sequence[Example]) -> bool:
    """Whether labels look like answers: most stand in their second texts, and few of them are alike."""
    labelled = [example for example in examples if example.label and example.text_pair is not None]
    inside = [
        example for example in labelled if all(name in (example.text_pair or "") for name in names_of(example.label))
    ]
    distinct = {name for example in labelled for name in names_of(example.label)}
    return bool(labelled) and len(inside) >= MOST * len(labelled) and len(distinct) > len(labelled) / 2 > 1
