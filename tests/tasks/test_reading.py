"""Reading: cuts that are fair, windows that lose no word, and spans that point into the text as it was sent."""

import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from service.engine.base_model import BaseModel
from service.tasks.reading import Given, TokenizedRow, read, share, tokenize
from tests.tiny import WORDS

TEXTS = st.lists(st.sampled_from([*WORDS, "zebra", "don't", "42", "!"]), max_size=30).map(" ".join)
# What makes characters, bytes and tokens differ: accents in one piece and in two, marks, emoji, wide and no space.
ODD = [
    "é",
    "e\u0301",
    "Straße",
    "東京",
    "🙂",
    "👩\u200d👩\u200d👧",
    "न\u093fम\u094d",
    "\u200b",
    "\t",
    "\u00a0",
    "ﬁ",
    "İ",
    "[SEP]",
]
ODD_TEXTS = st.lists(st.sampled_from([*ODD, "good", "film", " ", " "]), min_size=1, max_size=30).map("".join)


@pytest.fixture(scope="module")
def transformers_tokenizer(tiny_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_folder)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300))
def test_two_texts_share_the_room_fairly(first: int, second: int, room: int) -> None:
    kept = share(first, second, room)
    assert sum(kept) == min(room, first + second)  # no more than fits, and no room left unused
    for mine, other, whole in ((kept[0], kept[1], first), (kept[1], kept[0], second)):
        assert 0 <= mine <= whole
        if mine < whole:
            assert mine >= other - 1  # only the longer one gives


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5), st.integers(8, 40), st.booleans())
def test_tokens_equal_transformers(
    tiny_base: BaseModel, transformers_tokenizer: Any, texts: list[tuple[str, str]], max_length: int, pair: bool
) -> None:
    # Of an odd room transformers gives the odd token to the longer text, we to the second one.
    max_length -= (max_length - 3) % 2 if pair else 0
    firsts, seconds = [first for first, _ in texts], [second for _, second in texts] if pair else None
    rows = tokenize(tiny_base.tokenizer, firsts, seconds, max_length)
    theirs = transformers_tokenizer(
        firsts, seconds, truncation="longest_first", max_length=max_length, return_token_type_ids=True
    )
    whole = transformers_tokenizer(firsts, seconds)
    assert [row.ids.tolist() for row in rows] == theirs["input_ids"]
    assert [row.types.tolist() for row in rows] == theirs["token_type_ids"]
    assert [row.truncated for row in rows] == [len(ids) > max_length for ids in whole["input_ids"]]


def test_cutting_leaves_no_trace_in_the_tokenizer_that_tasks_share(tiny_base: BaseModel) -> None:
    text = "the film was really very great " * 10
    whole = tokenize(tiny_base.tokenizer, [text], None, max_length=64)[0]
    short = tokenize(tiny_base.tokenizer, [text], None, max_length=8)[0]
    again = tokenize(tiny_base.tokenizer, [text], None, max_length=64)[0]
    assert (len(whole), len(short), len(again)) == (62, 8, 62)
    assert (whole.truncated, short.truncated, again.truncated) == (False, True, False)
    assert whole.ids.tolist() == again.ids.tolist()


@pytest.mark.parametrize("texts", [[""], ["", "rain"], [" \t\n"]])
def test_an_empty_text_is_its_special_tokens(tiny_base: BaseModel, texts: Sequence[str]) -> None:
    assert tokenize(tiny_base.tokenizer, texts, None, max_length=8)[0].ids.tolist() == [2, 3]


@given(ODD_TEXTS)
def test_a_tokens_span_holds_its_very_characters(tiny_base: BaseModel, text: str) -> None:
    [row] = read(tiny_base.tokenizer, [Given(text)], 64, spans=True)[0].rows
    spans, words = _pointing(row)
    tokens = {number: token for token, number in tiny_base.tokenizer.get_vocab().items()}
    assert words[0] == words[-1] == -1
    last = 0
    for number, (start, end), word in zip(row.ids, spans, words, strict=True):
        if word >= 0:
            assert last <= start < end <= len(text)
            last = end
            if tokens[number] != "[UNK]" and text[start:end].isascii():
                assert text[start:end].lower() == tokens[number].removeprefix("##").lower()


def test_marks_that_belong_to_a_letter_are_inside_its_span(tiny_base: BaseModel, real_base: BaseModel) -> None:
    for base in (tiny_base, real_base):
        text = "good cafe\u0301 film\u0301"
        [row] = read(base.tokenizer, [Given(text)], 64, spans=True)[0].rows
        spans, words = _pointing(row)
        ends = {int(word): text[: int(end)] for (_, end), word in zip(spans, words, strict=True) if word >= 0}
        assert ends == {0: "good", 1: "good cafe\u0301", 2: "good cafe\u0301 film\u0301"}


def test_of_a_pair_spans_point_into_the_second_text(tiny_base: BaseModel) -> None:
    [row] = read(tiny_base.tokenizer, [Given("good film", "bad food")], 64, spans=True)[0].rows
    spans, words = _pointing(row)
    assert words.tolist() == [-1, -1, -1, -1, 0, 1, -1]
    assert spans[words >= 0].tolist() == [[0, 3], [4, 8]]


def test_kinds_that_do_not_point_are_spared_the_spans(tiny_base: BaseModel) -> None:
    [row] = read(tiny_base.tokenizer, [Given("good film")], 64)[0].rows
    assert row.spans is row.words is None


@given(st.integers(1, 60), st.integers(1, 200), st.integers(8, 64), st.integers(0, 80))
def test_every_word_of_a_long_passage_is_in_some_window(
    tiny_base: BaseModel, question: int, passage: int, max_length: int, overlap: int
) -> None:
    generator = random.Random(passage)
    asked = " ".join(generator.choices(WORDS, k=question))
    text = " ".join(generator.choices(WORDS, k=passage))
    [reading] = read(tiny_base.tokenizer, [Given(asked, text)], max_length, overlap=overlap, spans=True)
    room = max_length - 3
    assert reading.truncated == (question > room // 2)
    kept = min(question, room // 2)
    width = room - kept
    windows = []
    for row in reading.rows:
        _, words = _pointing(row)
        assert len(row) <= max_length
        assert row.ids[: kept + 2].tolist() == reading.rows[0].ids[: kept + 2].tolist()  # each begins with the question
        windows.append(words[words >= 0].tolist())
    assert sorted({word for window in windows for word in window}) == list(range(passage))
    for window, after in pairwise(windows):
        assert len(window) == width  # none is shorter than it could be, but the last
        assert window[0] < after[0]
        assert window[-1] - after[0] + 1 == min(overlap, width // 2)


def test_a_short_passage_is_one_row_as_any_pair(tiny_base: BaseModel) -> None:
    [windowed] = read(tiny_base.tokenizer, [Given("good film", "bad food")], 64, overlap=16)
    [plain] = read(tiny_base.tokenizer, [Given("good film", "bad food")], 64)
    [one], [other] = windowed.rows, plain.rows
    assert one.ids.tolist() == other.ids.tolist()
    assert one.types.tolist() == other.types.tolist()


def test_two_long_texts_take_no_longer_than_their_lengths(tiny_base: BaseModel) -> None:
    text = "good " * 20_000
    for overlap in (None, 16):
        began = perf_counter()
        [reading] = read(tiny_base.tokenizer, [Given(text, text)], 64, overlap=overlap)
        assert perf_counter() - began < 10  # where every piece met every other, it was minutes
        assert reading.truncated


def _pointing(row: TokenizedRow) -> tuple[np.ndarray, np.ndarray]:
    """A row's spans and words, which must be there."""
    assert row.spans is not None
    assert row.words is not None
    assert len(row.spans) == len(row.words) == len(row)
    return row.spans, row.words
