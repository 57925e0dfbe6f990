"""The scheduler: every row once, in order, within the budget, and nobody waits for the whole of a long job."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.errors import Overloaded
from service.serving.scheduler import Pick, Scheduler


class FakeJob:
    def __init__(self, *sizes: int, apart: bool = False) -> None:
        self.sizes = sizes
        self.apart = apart
        self.given_up = False

    def ended(self) -> bool:
        return self.given_up


Batch = list[Pick[FakeJob]]

BUDGETS = st.integers(1, 50)
# Rows of a few to a turn, and rows larger than a batch.
ROWS = st.one_of(*(st.lists(st.integers(1, size), min_size=1, max_size=12) for size in (3, 8, 60)))
JOBS = st.lists(ROWS, min_size=1, max_size=8)


def queue(jobs: Sequence[FakeJob], batch_tokens: int) -> Scheduler[FakeJob]:
    scheduler = Scheduler[FakeJob](batch_tokens, queue_tokens=10**9)
    for job in jobs:
        scheduler.admit(job)
    return scheduler


def run_out(scheduler: Scheduler[FakeJob]) -> list[Batch]:
    batches = []
    while batch := scheduler.next_batch():
        batches.append(batch)
    return batches


def tokens(batch: Batch) -> int:
    return sum(pick.job.sizes[pick.row] for pick in batch)


@given(JOBS, BUDGETS)
def test_every_row_is_picked_once_and_in_its_jobs_order(sizes: list[list[int]], budget: int) -> None:
    jobs = [FakeJob(*rows) for rows in sizes]
    picks = [pick for batch in run_out(queue(jobs, budget)) for pick in batch]
    for job in jobs:
        assert [pick.row for pick in picks if pick.job is job] == list(range(len(job.sizes)))
    assert len(picks) == sum(map(len, sizes))


@given(JOBS, BUDGETS)
def test_a_batch_stays_within_its_tokens_or_holds_a_single_larger_row(sizes: list[list[int]], budget: int) -> None:
    for batch in run_out(queue([FakeJob(*rows) for rows in sizes], budget)):
        assert tokens(batch) <= budget or len(batch) == 1


@given(JOBS, BUDGETS)
def test_a_batch_is_left_open_only_for_a_row_that_does_not_fit(sizes: list[list[int]], budget: int) -> None:
    scheduler = queue([FakeJob(*rows) for rows in sizes], budget)
    batches = run_out(scheduler)
    for batch, following in pairwise(batches):
        first = following[0]
        assert tokens(batch) + first.job.sizes[first.row] > budget


@given(JOBS, BUDGETS)
def test_a_job_waits_for_at_most_one_batch_for_each_job_ahead(sizes: list[list[int]], budget: int) -> None:
    jobs = [FakeJob(*rows) for rows in sizes]
    batches = run_out(queue(jobs, budget))
    for ahead, job in enumerate(jobs):
        assert any(pick.job is job for batch in batches[: ahead + 1] for pick in batch)


@given(st.data(), st.integers(2, 100), st.integers(0, 5))
def test_a_job_of_one_row_goes_into_the_next_batch_after_a_huge_job(
    data: st.DataObject, budget: int, before: int
) -> None:
    size = st.integers(1, budget // 2)
    huge = FakeJob(*data.draw(st.lists(size, min_size=200, max_size=200)))
    scheduler = queue([huge], budget)
    for _ in range(before):
        scheduler.next_batch()
    small = FakeJob(data.draw(size))
    scheduler.admit(small)
    assert small in {pick.job for pick in scheduler.next_batch()}


def test_huge_jobs_share_every_batch() -> None:
    jobs = [FakeJob(*[10] * 100) for _ in range(3)]
    scheduler = queue(jobs, batch_tokens=100)
    for _ in range(20):
        assert {pick.job for pick in scheduler.next_batch()} == set(jobs)


def test_a_huge_job_alone_fills_the_batch() -> None:
    scheduler = queue([FakeJob(*[10] * 100)], batch_tokens=100)
    assert len(scheduler.next_batch()) == 10


def test_short_jobs_share_a_batch_in_the_order_they_came() -> None:
    jobs = [FakeJob(5), FakeJob(5, 5), FakeJob(5)]
    assert queue(jobs, batch_tokens=40).next_batch() == [(jobs[0], 0), (jobs[1], 0), (jobs[1], 1), (jobs[2], 0)]


def test_a_row_larger_than_a_batch_runs_alone() -> None:
    jobs = [FakeJob(3), FakeJob(30), FakeJob(3)]
    assert run_out(queue(jobs, batch_tokens=10)) == [[(jobs[0], 0)], [(jobs[1], 0)], [(jobs[2], 0)]]


def test_rows_of_an_ended_job_are_dropped_and_their_tokens_leave_the_queue() -> None:
    ended, other = FakeJob(10, 10, 10), FakeJob(5)
    scheduler = queue([ended, other], batch_tokens=10)
    assert scheduler.next_batch() == [(ended, 0)]
    ended.given_up = True
    assert run_out(scheduler) == [[(other, 0)]]
    assert (scheduler.queued_tokens, len(scheduler)) == (0, 0)


def test_the_queue_is_full_to_the_token() -> None:
    scheduler = Scheduler[FakeJob](batch_tokens=10, queue_tokens=20)
    for job in (FakeJob(5), FakeJob(5, 5), FakeJob(5)):
        scheduler.admit(job)
    with pytest.raises(Overloaded, match="20 tokens are waiting; 1 more are too many for the queue's 20"):
        scheduler.admit(FakeJob(1))
    assert (scheduler.queued_tokens, len(scheduler)) == (20, 3)


def test_a_job_larger_than_the_queue_is_taken_and_leaves_half_of_it_to_others() -> None:
    scheduler = Scheduler[FakeJob](batch_tokens=10, queue_tokens=20)
    scheduler.admit(FakeJob(*[10] * 5))
    for _ in range(10):
        scheduler.admit(FakeJob(1))
    with pytest.raises(Overloaded, match="60 tokens are waiting; 1 more"):
        scheduler.admit(FakeJob(1))
    assert sum(map(len, run_out(scheduler))) == 15


def test_work_that_was_given_up_turns_no_other_away() -> None:
    scheduler = Scheduler[FakeJob](batch_tokens=10, queue_tokens=20)
    ended = FakeJob(10)
    scheduler.admit(FakeJob(10))
    scheduler.admit(ended)
    ended.given_up = True
    scheduler.admit(FakeJob(10))
    assert scheduler.queued_tokens == 20


@given(st.lists(st.tuples(ROWS, st.booleans()), min_size=1, max_size=8), BUDGETS)
def test_a_job_apart_shares_no_batch_and_waits_for_nobody_longer(
    given: list[tuple[list[int], bool]], budget: int
) -> None:
    jobs = [FakeJob(*rows, apart=apart) for rows, apart in given]
    batches = run_out(queue(jobs, budget))
    for batch in batches:
        assert len({pick.job for pick in batch}) == 1 or not any(pick.job.apart for pick in batch)
    firsts = [pick.job for batch in batches for pick in batch if pick.row == 0]
    assert firsts == jobs


class QueueMachine(RuleBasedStateMachine):
    """Any order of admissions, batches, endings and drains, beside a list of what should be waiting."""

    LIMIT = 150

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler[FakeJob](batch_tokens=40, queue_tokens=self.LIMIT)
        self.left: dict[FakeJob, list[int]] = {}  # the numbers of the rows that have not run

    def waiting(self, ended: bool) -> int:
        """Tokens of the jobs that have, or have not, ended."""
        return sum(job.sizes[row] for job, rows in self.left.items() for row in rows if job.given_up is ended)

    @rule(sizes=ROWS, apart=st.booleans())
    def admit(self, sizes: list[int], apart: bool) -> None:
        job = FakeJob(*sizes, apart=apart)
        others = [sum(other.sizes[row] for row in self.left[other]) for other in self.live()]
        if others and sum(min(tokens, self.LIMIT // 2) for tokens in (*others, sum(sizes))) > self.LIMIT:
            with pytest.raises(Overloaded):
                self.scheduler.admit(job)
        else:
            self.scheduler.admit(job)
            self.left[job] = list(range(len(sizes)))

    @rule()
    def run_a_batch(self) -> None:
        wanted = self.waiting(ended=False)
        batch = self.scheduler.next_batch()
        assert bool(batch) is bool(wanted)
        for job, row in batch:
            assert not job.given_up
            assert self.left[job].pop(0) == row
            if not self.left[job]:
                del self.left[job]
        if not batch:
            self.left.clear()

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(list(self.left))).given_up = True

    @rule()
    def drain(self) -> None:
        drained = self.scheduler.drain()
        assert len(drained) == len(set(drained))
        assert self.live() <= set(drained) <= set(self.left)
        self.left.clear()
        assert self.scheduler.next_batch() == []

    def live(self) -> set[FakeJob]:
        return {job for job in self.left if not job.given_up}

    @invariant()
    def queued_tokens_are_those_that_wait(self) -> None:
        live = self.waiting(ended=False)
        assert live <= self.scheduler.queued_tokens <= live + self.waiting(ended=True)

    @invariant()
    def every_job_with_rows_left_is_counted(self) -> None:
        assert len(self.live()) <= len(self.scheduler) <= len(self.left)


TestQueue = QueueMachine.TestCase
