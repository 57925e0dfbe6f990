"""Published files become files that `rootstock train` reads, and the docs say so."""

import json
from pathlib import Path

import pytest

import layouts
from copies import Rows, same_input
from data_sets import DATASETS, DataSet, prepare, table
from service.tasks import Span
from service.training.data import read_examples

DOCS = Path(__file__).parents[2] / "docs" / "experiment-data.md"


@pytest.fixture
def messages(tmp_path: Path) -> Path:
    """SMS Spam as it is published, with every fourth message a copy of another."""
    folder = tmp_path / "published" / "sms_spam"
    folder.mkdir(parents=True)
    lines = [f"{'spam' if i % 5 == 0 else 'ham'}\tMessage {i if i % 4 else 0}" for i in range(200)]
    (folder / "SMSSpamCollection").write_text("\n".join(["Label\tSMS", *lines]))
    return tmp_path / "published"


def _dataset(task: str) -> DataSet:
    return next(dataset for dataset in DATASETS if dataset.task == task)


def test_a_data_set_without_parts_has_no_message_twice(messages: Path, tmp_path: Path) -> None:
    rows = prepare(_dataset("spam"), messages, tmp_path)
    parts = {part: read_examples(tmp_path / "spam" / f"{part}.jsonl") for part in ("train", "validation", "test")}
    inputs = [same_input(example) for part in parts.values() for example in part]
    assert len(inputs) == len(set(inputs)) == 151
    assert rows == Rows(len(parts["train"]), len(parts["validation"]), len(parts["test"]), 0, 0, 0)
    assert len(parts["test"]) == pytest.approx(151 / 5, abs=1)


def test_the_same_files_give_the_same_bytes(messages: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        prepare(_dataset("spam"), messages, tmp_path / name)
    for path in (tmp_path / "one" / "spam").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / "spam" / path.name).read_bytes()


def test_an_answer_without_a_place_stands_where_it_is_whole_words(tmp_path: Path) -> None:
    asked = {"question": " Who came?", "answer": "Ann "}
    for part in ("train", "valid", "test"):
        (tmp_path / f"{part}.json").write_text(json.dumps([{"context": "Annette saw Ann.", "qas": [asked]}]))
    [example] = layouts.squad(tmp_path)["train"]
    assert (example.given, example.label) == (("Who came?", "Annette saw Ann."), (Span(12, 15, "Ann"),))


def test_tagged_words_become_spans_with_labels_in_words(tmp_path: Path) -> None:
    for name in ("wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated"):
        (tmp_path / name).write_text("See\tO\nStar\tB-creative-work\nWars\tI-creative-work\n\nHi\tO\n")
    first, second = layouts.wnut17(tmp_path)["test"]
    assert (first.text, first.label) == ("See Star Wars", (Span(4, 13, "creative work"),))
    assert (second.text, second.label) == ("Hi", ())


def test_the_docs_list_every_data_set_and_count_its_rows() -> None:
    page = DOCS.read_text(encoding="utf-8")
    header = table({}).splitlines()[0]
    counted = page[page.index(header) :]
    for dataset in DATASETS:
        assert f"`{dataset.folder}/`" in page
        assert f"| `{dataset.task}` |" in counted


def test_counts_are_shown_as_the_docs_have_them() -> None:
    assert (
        table({"spam": Rows(3716, 412, 1031, 0, 2, 1)}).splitlines()[2]
        == "| `spam` | 3,716 | 412 | 1,031 | 0 | 2 | 1 |"
    )
