"""Batches: every row once, neighbours of nearly equal length, shares of nearly equal size."""

import random

from hypothesis import given
from hypothesis import strategies as st

from service.training.batches import by_tokens, shares, shuffled


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.integers(1, 40), st.integers(0, 9))
def test_an_epoch_has_every_row_once_in_full_batches(lengths: list[int], size: int, seed: int) -> None:
    batches = list(shuffled(lengths, size, random.Random(seed)))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert sorted(map(len, batches))[1:] == [size] * (len(batches) - 1)
    assert batches == list(shuffled(lengths, size, random.Random(seed)))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.integers(1, 60))
def test_measuring_batches_keep_the_order_and_the_bound(lengths: list[int], most: int) -> None:
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    batches = list(by_tokens(order, lengths, most))
    assert [row for batch in batches for row in batch] == order
    assert all(len(batch) == 1 or sum(lengths[i] for i in batch) <= most for batch in batches)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 6))
def test_shares_cover_everything_once_in_order(sizes: list[int], count: int) -> None:
    parts = shares(sizes, count)
    assert 1 <= len(parts) <= count
    assert [i for part in parts for i in range(len(sizes))[part]] == list(range(len(sizes)))
    assert all(part.start < part.stop for part in parts)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 6))
def test_no_share_is_more_than_one_item_above_the_mean(sizes: list[int], count: int) -> None:
    assert max(sum(sizes[part]) for part in shares(sizes, count)) <= sum(sizes) / count + max(sizes)
