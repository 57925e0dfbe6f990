"""Rows that occur more than once, in one part of a data set or in several: an input is one however it is spaced or
capitalised, and a pair is both its texts.
"""

from collections.abc import Iterable
from typing import NamedTuple

from service.training.data import Example

Parts = dict[str, list[Example]]  # train, validation, test


class Rows(NamedTuple):
    """How many rows a data set's parts have, and what happened to copies."""

    train: int
    validation: int
    test: int
    test_seen: int  # test rows that stood in training or validation too, as published
    train_dropped: int  # they stand in validation or test
    validation_dropped: int  # they stand in test


def same_input(example: Example) -> tuple[str, str]:
    """Equal for inputs that count as one."""
    return _plain(example.text), _plain(example.text_pair or "")


def each_once(examples: Iterable[Example]) -> list[Example]:
    """The first of every input."""
    found: dict[tuple[str, str], Example] = {}
    for example in examples:
        found.setdefault(same_input(example), example)
    return list(found.values())


def without_copies(parts: Parts) -> tuple[Parts, Rows]:
    """Takes out of training what stands in validation or test, and out of validation what stands in test.

    The test part stays as it is published.
    """
    test = _inputs(parts["test"])
    validation = [example for example in parts["validation"] if same_input(example) not in test]
    known = test | _inputs(validation)
    train = [example for example in parts["train"] if same_input(example) not in known]
    before = _inputs(parts["train"]) | _inputs(parts["validation"])
    rows = Rows(
        train=len(train),
        validation=len(validation),
        test=len(parts["test"]),
        test_seen=sum(same_input(example) in before for example in parts["test"]),
        train_dropped=len(parts["train"]) - len(train),
        validation_dropped=len(parts["validation"]) - len(validation),
    )
    return {"train": train, "validation": validation, "test": parts["test"]}, rows


def _inputs(examples: Iterable[Example]) -> set[tuple[str, str]]:
    return {same_input(example) for example in examples}


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
