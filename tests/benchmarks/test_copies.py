"""No input of a test set is trained on, however it is spaced or capitalised."""

from copies import each_once, without_copies
from service.training.data import Example


def _examples(*texts: str, pair: str | None = None) -> list[Example]:
    return [Example(text, pair, "label") for text in texts]


def test_what_stands_in_a_later_part_is_dropped_from_an_earlier_one() -> None:
    parts = {
        "train": _examples("one", "Two  again", "three", "four", "five"),
        "validation": _examples("THREE", "four ", "six"),
        "test": _examples("two again", "FOUR", "seven"),
    }
    kept, rows = without_copies(parts)
    assert [example.text for example in kept["train"]] == ["one", "five"]
    assert [example.text for example in kept["validation"]] == ["THREE", "six"]
    assert kept["test"] == parts["test"]
    assert rows._asdict() == {
        "train": 2,
        "validation": 2,
        "test": 3,
        "test_seen": 2,
        "train_dropped": 3,
        "validation_dropped": 1,
    }


def test_a_pair_is_the_same_only_with_both_texts() -> None:
    parts = {
        "train": _examples("one", pair="a") + _examples("one", pair="b") + _examples("a", pair="one"),
        "validation": _examples("two", pair="a"),
        "test": _examples("One", pair="A"),
    }
    kept, _ = without_copies(parts)
    assert [example.given for example in kept["train"]] == [("one", "b"), ("a", "one")]


def test_each_once_keeps_the_first_in_its_place() -> None:
    found = each_once(_examples("one", "two", "ONE", "three", " two"))
    assert [example.text for example in found] == ["one", "two", "three"]
