"""Packing: index maths that loses no token."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.engine.packing import pack
from tests.tiny import random_row

ROWS = st.lists(st.tuples(st.integers(1, 12), st.sampled_from([0, 0, 2, 5])), min_size=1, max_size=20)
LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=20)


@given(LENGTHS)
def test_packing_lays_the_rows_one_after_another(lengths: list[int]) -> None:
    rows = [random_row(length, seed, pair=seed % 2 == 1) for seed, length in enumerate(lengths)]
    batch = pack(rows)
    assert batch.ids.tolist() == [token for row in rows for token in row.ids]
    assert batch.types.tolist() == [kind for row in rows for kind in row.types]
    assert batch.positions.tolist() == [position for length in lengths for position in range(length)]
    assert batch.lengths.tolist() == lengths


@given(ROWS)
def test_blocks_hold_whole_rows_of_one_length_and_prefix(sizes: list[tuple[int, int]]) -> None:
    lengths = [length for length, _ in sizes]
    batch = pack([random_row(length) for length in lengths], [prefix for _, prefix in sizes])
    assert [(block.length, block.prefix) for block in batch.blocks] == sorted(set(sizes), key=lambda size: size[::-1])
    assert sorted(row for block in batch.blocks for row in block.rows) == list(range(len(sizes)))
    for block in batch.blocks:
        assert all(sizes[row] == (block.length, block.prefix) for row in block.rows)
    starts = np.cumsum(lengths) - lengths
    in_turn = [token for block in batch.blocks for row in block.rows for token in starts[row] + range(block.length)]
    assert batch.by_block.tolist() == in_turn


def test_without_prefixes_equal_lengths_are_one_block() -> None:
    batch = pack([random_row(length) for length in (4, 2, 4)])
    assert batch.blocks == [([1], 2, 0), ([0, 2], 4, 0)]


@given(ROWS)
def test_restore_undoes_by_block(sizes: list[tuple[int, int]]) -> None:
    batch = pack([random_row(length) for length, _ in sizes], [prefix for _, prefix in sizes])
    tokens = torch.arange(len(batch.ids))
    assert torch.equal(tokens[batch.by_block][batch.restore], tokens)


@given(ROWS)
def test_in_blocks_says_whether_anything_moves(sizes: list[tuple[int, int]]) -> None:
    batch = pack([random_row(length) for length, _ in sizes], [prefix for _, prefix in sizes])
    assert batch.in_blocks == (batch.by_block.tolist() == list(range(len(batch.ids))))
