"""What nobody waits for: it takes nothing from others' batches, little room, and is dropped where others wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Overloaded
from service.serving.scheduler import Pick
from service.serving.spare import PART, Spare
from tests.serving.test_scheduler import ROWS, FakeJob, taken

BUDGETS = st.integers(1, 200)


@given(ROWS, ROWS, BUDGETS)
def test_it_goes_along_within_the_budget_and_a_part_of_it(spare: list[int], others: list[int], budget: int) -> None:
    waiting, job = Spare[FakeJob](), FakeJob(*spare)
    waiting.admit(job, 0, budget)
    batch = [Pick(FakeJob(*others), row) for row in range(len(others))]
    found = waiting.beside(batch, budget)
    assert found == [(job, row) for row in range(len(found))]
    assert taken(found) <= max(1, budget // PART)
    assert not found or taken(batch) + taken(found) <= budget


@given(ROWS, BUDGETS)
def test_alone_every_row_runs_once_in_order_and_in_small_batches(sizes: list[int], budget: int) -> None:
    waiting, job = Spare[FakeJob](), FakeJob(*sizes)
    waiting.admit(job, 0, budget)
    batches = []
    while waiting:
        batches.append(waiting.beside([], budget))
    assert [pick for batch in batches for pick in batch] == [(job, row) for row in range(len(sizes))]
    assert all(taken(batch) <= max(1, budget // PART) or len(batch) == 1 for batch in batches)


def test_it_is_taken_where_nothing_waits_or_all_fits_into_a_batch() -> None:
    for queued, sizes in ((0, [30, 30]), (4, [3, 3])):
        waiting = Spare[FakeJob]()
        waiting.admit(FakeJob(*sizes), queued, 10)
        with pytest.raises(Overloaded, match="tokens are waiting, and nobody waits for 1 more"):
            waiting.admit(FakeJob(1), queued, 10)
        assert waiting.drain()
        waiting.admit(FakeJob(1), queued, 10)


def test_what_was_given_up_is_not_run_and_takes_no_room() -> None:
    waiting, ended, other = Spare[FakeJob](), FakeJob(4, 4), FakeJob(1)
    waiting.admit(ended, 0, 10)
    waiting.admit(other, 0, 10)
    waiting.withdraw(ended)
    waiting.withdraw(FakeJob(1))
    assert waiting.beside([], 10) == [(other, 0)]
    assert not waiting
    waiting.admit(FakeJob(10), 0, 10)


def test_what_shares_no_batch_does_so_with_nobody() -> None:
    waiting = Spare[FakeJob]()
    waiting.admit(FakeJob(1), 0, 1000)
    assert waiting.beside([Pick(FakeJob(1, apart=True), 0)], 1000) == []
    assert len(waiting.beside([Pick(FakeJob(1), 0)], 1000)) == 1
