"""Packing and cutting: index maths that loses no token, and cuts that are fair."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from service.engine.base_model import BaseModel
from service.engine.tokens import pack, share, tokenize
from tests.tiny import WORDS, random_row

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=20)
TEXTS = st.lists(st.sampled_from([*WORDS, "zebra", "don't", "42", "!"]), max_size=30).map(" ".join)


@pytest.fixture(scope="module")
def transformers_tokenizer(tiny_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_folder)


@given(LENGTHS)
def test_packing_lays_the_rows_one_after_another(lengths: list[int]) -> None:
    rows = [random_row(length, seed, pair=seed % 2 == 1) for seed, length in enumerate(lengths)]
    batch = pack(rows)
    assert batch.ids.tolist() == [token for row in rows for token in row.ids]
    assert batch.types.tolist() == [kind for row in rows for kind in row.types]
    assert batch.positions.tolist() == [position for length in lengths for position in range(length)]
    assert batch.lengths.tolist() == lengths


@given(LENGTHS)
def test_blocks_hold_whole_rows_of_one_length(lengths: list[int]) -> None:
    batch = pack([random_row(length) for length in lengths])
    assert [length for _, length in batch.blocks] == sorted(set(lengths))
    starts = np.cumsum(lengths) - lengths
    expected = [
        [*range(start, start + length)]
        for _, length in batch.blocks
        for start, own in zip(starts, lengths, strict=True)
        if own == length
    ]
    assert batch.by_length.tolist() == [token for row in expected for token in row]
    assert [length for rows, length in batch.blocks for _ in range(rows)] == [len(row) for row in expected]


@given(LENGTHS)
def test_restore_undoes_by_length(lengths: list[int]) -> None:
    batch = pack([random_row(length) for length in lengths])
    tokens = torch.arange(sum(lengths))
    assert torch.equal(tokens[batch.by_length][batch.restore], tokens)


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
