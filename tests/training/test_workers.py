"""Sharing a batch between threads changes nothing but the time it takes."""

import threading
from collections.abc import Iterator

import pytest
import torch

from service.training.workers import MOST, Workers


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items(four_threads: None) -> None:
    with Workers() as workers:
        assert workers.map(lambda number: number * number, range(50)) == [number * number for number in range(50)]


def test_a_fault_reaches_the_caller_and_the_threads_are_given_back(four_threads: None) -> None:
    with pytest.raises(ZeroDivisionError), Workers() as workers:
        workers.map(lambda number: 1 // number, [1, 0])
    assert torch.get_num_threads() == 4


def test_kernels_do_not_compete_with_workers(four_threads: None) -> None:
    meeting = threading.Barrier(4, timeout=10)  # all of them must be at work at once

    def seen(_: int) -> int:
        meeting.wait()
        return torch.get_num_threads()

    with Workers() as workers:
        assert workers.map(seen, range(4)) == [1] * 4


def test_more_threads_than_shares_stay_with_the_kernels() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3 * MOST)
    try:
        with Workers() as workers:
            assert (workers.count, torch.get_num_threads()) == (MOST, 3)
    finally:
        torch.set_num_threads(before)
