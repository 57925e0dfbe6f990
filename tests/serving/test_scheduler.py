"""The scheduler: every row once, within the budget; tasks have their shares, and no long job holds the others up."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain, pairwise
from math import inf
from weakref import ref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.serving.scheduler import ABOUT, CREDIT, UNPROVED, Pick, Scheduler


class FakeJob:
    def __init__(self, *sizes: int, task: str = "mood", deadline: float = inf, apart: bool = False) -> None:
        self.sizes = sizes
        self.task = task
        self.deadline = deadline
        self.apart = apart

    @property
    def tokens(self) -> int:
        return sum(self.sizes)


Batch = list[Pick[FakeJob]]

PLENTY = 10**9
BUDGETS = st.integers(1, 50)
CREDITS = st.sampled_from([0, 0.5, 2])
PATIENCES = st.sampled_from([0, 1, 5, inf])
TASKS = st.sampled_from("abcd")
WEIGHTS = st.fixed_dictionaries({task: st.sampled_from([0.25, 0.5, 1, 2, 3.7]) for task in "abcd"})
# Rows of a few to a turn, and rows larger than a batch.
ROWS = st.one_of(*(st.lists(st.integers(1, size), min_size=1, max_size=12) for size in (3, 8, 60)))
JOBS = st.lists(st.builds(lambda rows, task: FakeJob(*rows, task=task), ROWS, TASKS), min_size=1, max_size=12)
OF_ONE_TASK = st.lists(st.builds(lambda rows: FakeJob(*rows), ROWS), min_size=1, max_size=8)


def queue(
    jobs: Sequence[FakeJob], weights: dict[str, float] | None = None, credit: float = 0, patience: float = inf
) -> Scheduler[FakeJob]:
    scheduler = Scheduler[FakeJob](weights, credit, patience=patience)
    for job in jobs:
        scheduler.admit(job, PLENTY)
    return scheduler


def run_out(scheduler: Scheduler[FakeJob], budget: int) -> list[Batch]:
    batches = []
    while batch := scheduler.next_batch(budget):
        batches.append(batch)
    return batches


def taken(picks: Sequence[Pick[FakeJob]]) -> int:
    """Their tokens."""
    return sum(pick.job.sizes[pick.row] for pick in picks)


def admits(scheduler: Scheduler[FakeJob], job: FakeJob, limit: int, promised: float = inf) -> bool:
    if scheduler.missing(job.task, job.tokens, limit):
        return False
    scheduler.admit(job, limit, promised)
    return True


@given(JOBS, WEIGHTS, CREDITS, PATIENCES, BUDGETS)
def test_every_row_is_picked_once_and_in_its_jobs_order(
    jobs: list[FakeJob], weights: dict[str, float], credit: float, patience: float, budget: int
) -> None:
    picks = [*chain(*run_out(queue(jobs, weights, credit, patience), budget))]
    for job in jobs:
        assert [pick.row for pick in picks if pick.job is job] == list(range(len(job.sizes)))
    assert len(picks) == sum(len(job.sizes) for job in jobs)


@given(JOBS, WEIGHTS, CREDITS, PATIENCES, BUDGETS)
def test_a_batch_stays_within_its_tokens_or_holds_a_single_larger_row(
    jobs: list[FakeJob], weights: dict[str, float], credit: float, patience: float, budget: int
) -> None:
    for batch in run_out(queue(jobs, weights, credit, patience), budget):
        assert taken(batch) <= budget or len(batch) == 1


@given(JOBS, WEIGHTS, CREDITS, BUDGETS)
def test_a_batch_is_left_open_only_for_a_row_that_does_not_fit(
    jobs: list[FakeJob], weights: dict[str, float], credit: float, budget: int
) -> None:
    for batch, following in pairwise(run_out(queue(jobs, weights, credit), budget)):
        assert taken(batch) + taken(following[:1]) > budget


@given(JOBS, WEIGHTS, CREDITS, BUDGETS)
def test_a_batch_is_full_where_more_waits(
    jobs: list[FakeJob], weights: dict[str, float], credit: float, budget: int
) -> None:
    scheduler = queue(jobs, weights, credit)
    while scheduler.next_batch(budget):
        assert scheduler.full == (len(scheduler) > 0)


@given(JOBS, WEIGHTS, CREDITS, BUDGETS)
def test_jobs_of_one_task_begin_in_the_order_they_came(
    jobs: list[FakeJob], weights: dict[str, float], credit: float, budget: int
) -> None:
    begun = [pick.job for pick in chain(*run_out(queue(jobs, weights, credit), budget)) if pick.row == 0]
    for task in "abcd":
        assert [job for job in begun if job.task == task] == [job for job in jobs if job.task == task]


@given(OF_ONE_TASK, BUDGETS)
def test_a_job_waits_for_at_most_one_batch_for_each_job_of_its_task_ahead(jobs: list[FakeJob], budget: int) -> None:
    batches = run_out(queue(jobs), budget)
    for ahead, job in enumerate(jobs):
        assert any(pick.job is job for batch in batches[: ahead + 1] for pick in batch)


@given(JOBS, WEIGHTS, CREDITS, BUDGETS, st.integers(0, 6))
def test_who_comes_to_an_empty_line_waits_for_at_most_one_turn_of_each_other_task(
    jobs: list[FakeJob], weights: dict[str, float], credit: float, budget: int, before: int
) -> None:
    scheduler = queue(jobs, weights, credit)
    for _ in range(before):
        scheduler.next_batch(budget)
    new = FakeJob(1, task="new")
    scheduler.admit(new, PLENTY)
    ahead: Counter[str] = Counter()
    for pick in chain(*run_out(scheduler, budget)):
        if pick.job is new:
            break
        ahead[pick.job.task] += pick.job.sizes[pick.row]
    longest = max(chain(*(job.sizes for job in jobs)))
    assert all(tokens <= max(budget // 4, longest) for tokens in ahead.values())


@given(st.data(), WEIGHTS, CREDITS, st.integers(4, 50), st.integers(1, 40))
def test_busy_tasks_share_by_weight_whatever_each_has_waiting(
    data: st.DataObject, weights: dict[str, float], credit: float, budget: int, batches: int
) -> None:
    jobs: dict[str, list[FakeJob]] = {}
    for task in weights:
        rows = data.draw(st.integers(1, 30))  # of a job
        size = st.integers(1, data.draw(st.integers(1, budget)))
        few = data.draw(st.lists(size, min_size=7, max_size=7))
        jobs[task] = [FakeJob(*(few * 5)[:rows], task=task) for _ in range(budget * batches // rows + 1)]
    scheduler = queue([*chain(*jobs.values())], weights, credit)
    served = dict.fromkeys(weights, 0)
    for _ in range(batches):
        for pick in scheduler.next_batch(budget):
            served[pick.job.task] += pick.job.sizes[pick.row]
    # Theorem 1 of Goyal, Vin and Cheng: no two are further apart than a turn of each.
    turn = {task: max(budget // 4, *chain(*(job.sizes for job in ones))) / weights[task] for task, ones in jobs.items()}
    share = {task: tokens / weights[task] for task, tokens in served.items()}
    for one in weights:
        for other in weights:
            assert share[one] - share[other] <= turn[one] + turn[other] + 1e-6


def test_a_task_that_asks_for_ten_times_its_share_gets_what_the_others_leave() -> None:
    scheduler = queue([FakeJob(*[5] * 1000, task="hot") for _ in range(10)])
    for _ in range(50):
        quiet = [FakeJob(5, task=f"quiet-{number}") for number in range(4)]
        for job in quiet:
            scheduler.admit(job, PLENTY)
        batch = scheduler.next_batch(100)
        assert set(quiet) <= {pick.job for pick in batch}
        assert sum(pick.job.task == "hot" for pick in batch) == 16


@pytest.mark.parametrize("credit", [0, 1, 3])
def test_what_a_task_did_not_use_it_saves_up_to_its_credit_and_no_further(credit: int) -> None:
    scheduler = queue([FakeJob(*[1] * 1000, task="busy"), FakeJob(1, task="rare")], credit=credit)
    for _ in range(20):
        scheduler.next_batch(20)
    scheduler.admit(FakeJob(*[1] * 1000, task="rare"), PLENTY)
    for _ in range(credit):
        assert Counter(pick.job.task for pick in scheduler.next_batch(20)) == {"rare": 20}
    for _ in range(10):
        assert Counter(pick.job.task for pick in scheduler.next_batch(20)) == {"busy": 10, "rare": 10}


def test_who_uses_less_than_its_share_comes_before_who_uses_more() -> None:
    scheduler = queue([FakeJob(*[5] * 1000, task="hot")], credit=2)
    for _ in range(50):
        for _ in range(2):
            scheduler.next_batch(20)
        calm = FakeJob(5, 5, 5, 5, task="calm")
        scheduler.admit(calm, PLENTY)
        assert [pick.job for pick in scheduler.next_batch(20)] == [calm] * 4


def test_requests_of_tasks_with_credit_run_one_after_another() -> None:
    scheduler = queue([FakeJob(*[5] * 1000, task="hot")], credit=2)
    for _ in range(10):
        scheduler.next_batch(40)
    first, second = FakeJob(*[5] * 7, task="first"), FakeJob(*[5] * 7, task="second")
    scheduler.admit(first, PLENTY)
    scheduler.admit(second, PLENTY)
    assert {pick.job for pick in scheduler.next_batch(35)} == {first}
    assert {pick.job for pick in scheduler.next_batch(35)} == {second}


def test_who_uses_more_than_its_share_does_not_make_the_batches_of_others_long() -> None:
    scheduler = queue([FakeJob(*[5] * 1000, task="hot")], credit=2)
    for calm in (1, 4, 8, 12, 19):
        for _ in range(5):
            scheduler.next_batch(40)
        scheduler.admit(FakeJob(*[2] * calm, task="calm"), PLENTY)
        batch = scheduler.next_batch(40)
        assert [pick.job.task for pick in batch].count("calm") == calm
        assert taken(batch) == max(2 * calm, 20 + 2 * calm % 10)  # whole turns of a quarter, to the half at least


def test_a_task_that_waits_alone_is_taken_by_half_batches_while_those_with_credit_are_about() -> None:
    scheduler = queue([FakeJob(*[5] * 1000, task="hot")], credit=2)
    assert taken(scheduler.next_batch(40)) == 40
    scheduler.admit(FakeJob(5, task="calm"), PLENTY)
    assert {pick.job.task for pick in scheduler.next_batch(40)} == {"calm", "hot"}
    following, full = [], []
    for _ in range(3 * ABOUT):
        following.append(taken(scheduler.next_batch(40)))
        full.append(scheduler.full)
    halves = following.count(20)
    assert ABOUT <= halves <= 2 * ABOUT
    assert following == [20] * halves + [40] * (3 * ABOUT - halves)
    assert full == [tokens == 40 for tokens in following]


def test_where_several_tasks_wait_batches_are_whole() -> None:
    scheduler = queue([FakeJob(*[5] * 1000, task="hot")], credit=2)
    scheduler.next_batch(40)
    scheduler.admit(FakeJob(*[5] * 1000, task="busy"), PLENTY)
    assert any({pick.job.task for pick in scheduler.next_batch(40)} == {"busy", "hot"} for _ in range(10))
    assert [taken(scheduler.next_batch(40)) for _ in range(5)] == [40] * 5


def test_no_batch_is_made_smaller_than_the_smallest() -> None:
    scheduler = Scheduler[FakeJob](credit=2, smallest=30)
    scheduler.admit(FakeJob(*[5] * 1000, task="hot"), PLENTY)
    scheduler.next_batch(40)
    scheduler.admit(FakeJob(5, task="calm"), PLENTY)
    assert {pick.job.task for pick in scheduler.next_batch(40)} == {"calm", "hot"}
    for budget, expected, full in ((40, 30, False), (40, 30, False), (30, 30, True), (20, 20, True)):
        assert (taken(scheduler.next_batch(budget)), scheduler.full) == (expected, full)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(30, 60))
def test_who_comes_to_an_empty_line_waits_for_at_most_a_batch_of_each_other_task_with_credit(
    sizes: list[int], budget: int
) -> None:
    scheduler = queue([FakeJob(*[1] * 1000, task="busy")], credit=2)
    for _ in range(5):
        scheduler.next_batch(budget)
    for number, size in enumerate(sizes):
        scheduler.admit(FakeJob(*[1] * size, task=str(number)), PLENTY)
    new = FakeJob(1, task="new")
    scheduler.admit(new, PLENTY)
    assert any(pick.job is new for _ in range(len(sizes) + 1) for pick in scheduler.next_batch(budget))


@given(JOBS, CREDITS, st.integers(8, 50), st.integers(0, 100))
def test_what_is_promised_runs_by_then_whoever_comes_later(
    jobs: list[FakeJob], credit: float, budget: int, promised: int
) -> None:
    scheduler = queue([FakeJob(*[1] * 1000, task="new")], credit=credit)
    for _ in range(3):
        scheduler.next_batch(budget)
    for job in jobs:
        scheduler.admit(job, PLENTY, promised)
    new, before, ahead = FakeJob(1, task="new"), sum(job.tokens for job in jobs), 0
    scheduler.admit(new, PLENTY, promised + 1)
    while all(pick.job is not new for pick in scheduler.next_batch(budget)):
        ahead += budget
        for task in "abcd":
            scheduler.admit(FakeJob(*[1] * budget, task=task), PLENTY, promised)
    longest = max(chain(*(job.sizes for job in jobs)))
    assert ahead <= promised + 2 * (before + 2 * max(budget, longest))


def without_credit(budget: int, credit: float, patience: float) -> Scheduler[FakeJob]:
    """What "new" had of it is used up."""
    scheduler = queue([FakeJob(*[1] * 3 * budget, task="new")], credit=credit, patience=patience)
    run_out(scheduler, budget)
    return scheduler


@given(JOBS, CREDITS, st.integers(8, 50), st.integers(1, 4), st.integers(0, 5))
def test_nobody_waits_for_more_than_a_multiple_of_what_waited_whoever_comes_later(
    jobs: list[FakeJob], credit: float, budget: int, patience: int, before: int
) -> None:
    scheduler = without_credit(budget, credit, patience)
    for job in [*jobs, *(FakeJob(1, task="new") for _ in range(before))]:
        scheduler.admit(job, PLENTY)
    new, waiting, ahead, comers = FakeJob(1, task="new"), scheduler.queued_tokens, 0, 0
    scheduler.admit(new, PLENTY)
    longest = max(chain(*(job.sizes for job in jobs)))
    batch = scheduler.next_batch(budget)
    while all(pick.job is not new for pick in batch):
        ahead += taken(batch)
        assert ahead <= min(patience, before + 2) * (waiting + 1) + 2 * (waiting + 2 * max(budget, longest))
        comers += 1
        scheduler.admit(FakeJob(*[1] * budget, task=f"comer {comers}"), PLENTY)  # with all its credit
        batch = scheduler.next_batch(budget)


@pytest.mark.parametrize(("patience", "before", "times"), [(5, 0, 2), (5, 2, 4), (5, 7, 5), (2, 2, 2), (1, 0, 1)])
def test_before_it_is_overdue_it_lets_those_with_credit_go_first(patience: int, before: int, times: int) -> None:
    scheduler = without_credit(20, 2, patience)
    scheduler.admit(FakeJob(*[1] * (39 - before), task="first"), PLENTY)
    for _ in range(before):
        scheduler.admit(FakeJob(1, task="new"), PLENTY)
    new, ahead, comers = FakeJob(1, task="new"), 0, 0
    scheduler.admit(new, PLENTY)
    batch = scheduler.next_batch(20)
    while all(pick.job is not new for pick in batch):
        ahead += taken(batch)
        comers += 1
        scheduler.admit(FakeJob(*[1] * 20, task=f"comer {comers}"), PLENTY)
        batch = scheduler.next_batch(20)
    assert times * 40 - 20 <= ahead <= times * 40 + 40


def test_a_later_job_of_the_same_task_that_is_overdue_before_it_does_not_overtake() -> None:
    scheduler, comers = without_credit(20, credit=2, patience=2), iter(range(100))
    for _ in range(10):
        scheduler.admit(FakeJob(*[1] * 20, task=f"comer {next(comers)}"), PLENTY)
    jobs = [FakeJob(1, task="new") for _ in range(3)]
    for job in jobs[:2]:
        scheduler.admit(job, PLENTY)
    batches = [scheduler.next_batch(20) for _ in range(9)]
    scheduler.admit(jobs[2], PLENTY)  # less waits, so it is overdue sooner than the second
    for number in comers:
        scheduler.admit(FakeJob(*[1] * 20, task=f"comer {number}"), PLENTY)
        batches.append(scheduler.next_batch(20))
    ran = [pick.job for pick in chain(*batches) if pick.job.task == "new"]
    assert ran == jobs


@pytest.mark.parametrize("others", [4, 16, 40])
@pytest.mark.parametrize("weight", [0.5, 1, 4])
def test_patience_gives_no_busy_task_more_than_its_share(others: int, weight: float) -> None:
    scheduler = queue([], {"hot": weight}, credit=2, patience=1)
    for job in [FakeJob(*[5] * 4, task=str(number)) for number in range(others)] * 2:
        scheduler.admit(FakeJob(*job.sizes, task=job.task), PLENTY)
    for _ in range(300):
        scheduler.admit(FakeJob(*[5] * 4, task="hot"), PLENTY)
    served: Counter[str] = Counter()
    for _ in range(1000):
        for pick in scheduler.next_batch(80):
            served[pick.job.task] += 5
            if pick.row == 3:
                scheduler.admit(FakeJob(*[5] * 4, task=pick.job.task), PLENTY)
    assert served["hot"] / served.total() == pytest.approx(weight / (weight + others), rel=0.2)


@pytest.mark.parametrize(("promised", "tokens"), [(1000, 20), (40, 40)])
def test_only_what_is_overdue_keeps_a_batch_from_making_way(promised: int, tokens: int) -> None:
    scheduler = Scheduler[FakeJob](credit=2)
    for _ in range(10):
        scheduler.admit(FakeJob(*[5] * 8, task="hot"), PLENTY, promised)
    for _ in range(3):
        scheduler.next_batch(40)
    for task in ("calm", "quiet"):
        scheduler.admit(FakeJob(5, task=task), PLENTY, promised)
    batch = scheduler.next_batch(40)
    assert {pick.job.task for pick in batch} == {"calm", "quiet", "hot"}
    assert taken(batch) == tokens


def test_promises_leave_half_to_the_turns_of_what_is_too_large_for_one() -> None:
    scheduler, large = Scheduler[FakeJob]({"large": 20}, credit=2), FakeJob(*[15] * 1000, task="large")
    scheduler.admit(large, PLENTY, promised=40)
    picked: Counter[str] = Counter()
    for _ in range(200):
        for task in "abcd":
            scheduler.admit(FakeJob(5, 5, task=task), PLENTY, promised=40)
        for pick in scheduler.next_batch(40):
            picked[pick.job.task] += pick.job.sizes[pick.row]
    assert 0.35 <= picked["large"] / picked.total() <= 0.65


@given(st.sampled_from([1, 4, 8]), st.integers(0, 40))
def test_promises_leave_nobody_further_behind_than_its_credit(weight: float, promised: int) -> None:
    scheduler = Scheduler[FakeJob]({"large": weight}, credit=2)
    scheduler.admit(FakeJob(*[15] * 1000, task="large"), PLENTY)
    for _ in range(200):
        for task in "abcd":
            scheduler.admit(FakeJob(5, 5, task=task), PLENTY, promised)
        scheduler.next_batch(40)
    new = FakeJob(5, task="new")
    scheduler.admit(new, PLENTY)
    assert any(pick.job is new for _ in range(2 * CREDIT) for pick in scheduler.next_batch(40))


def test_an_idle_scheduler_holds_no_job() -> None:
    scheduler, known = Scheduler[FakeJob](credit=2), []
    for task in "abcde" * 2:
        job = FakeJob(5, task=task)
        scheduler.admit(job, PLENTY, promised=10)
        known.append(ref(job))
    del job
    while scheduler.next_batch(40):
        pass
    assert [one() for one in known] == [None] * 10


def test_what_is_proved_goes_before_nobody() -> None:
    scheduler = queue([FakeJob(*[5] * 1000, task="busy")], credit=2)
    for _ in range(10):
        scheduler.next_batch(20)
    assert not scheduler.has_credit(UNPROVED, 1)
    scheduler.admit(FakeJob(*[5] * 8, task=UNPROVED, apart=True), PLENTY, promised=40)
    picked = [pick.job.task for _ in range(8) for pick in scheduler.next_batch(20)]
    assert picked.count("busy") >= picked.count(UNPROVED)


def test_credit_is_for_what_is_within_the_share() -> None:
    scheduler = queue([FakeJob(*[5] * 1000, task="hot")], {"heavy": 3}, credit=2)
    for _ in range(10):
        scheduler.next_batch(20)
    assert not scheduler.has_credit("hot", 1)
    assert [task for task in ("heavy", "calm") if scheduler.has_credit(task, 41)] == ["heavy"]
    assert scheduler.has_credit("calm", 40)
    scheduler.admit(FakeJob(30, task="calm"), PLENTY)
    assert scheduler.tokens_within == 30
    assert not scheduler.has_credit("calm", 11)
    assert scheduler.has_credit("calm", 10)
    scheduler.next_batch(30)
    assert not scheduler.has_credit("calm", 11)
    for _ in range(2):
        scheduler.next_batch(60)  # halves
    assert scheduler.has_credit("calm", 50)


def test_an_empty_queue_does_not_make_hot_tasks_calm() -> None:
    scheduler = Scheduler[FakeJob](credit=2)
    for _ in range(30):
        scheduler.admit(FakeJob(*[5] * 4, task="hot"), PLENTY)
        assert scheduler.next_batch(20)
    scheduler.admit(FakeJob(*[5] * 4, task="hot"), PLENTY)
    scheduler.admit(FakeJob(*[5] * 4, task="calm"), PLENTY)
    assert {pick.job.task for pick in scheduler.next_batch(20)} == {"calm"}


def test_a_task_that_comes_and_goes_gets_no_more_than_one_that_stays() -> None:
    scheduler = queue([FakeJob(*[1] * 10_000, task="stays")])
    served: Counter[str] = Counter()
    for _ in range(200):
        coming = FakeJob(*[1] * 20, task="comes and goes")
        scheduler.admit(coming, PLENTY)
        served.update(pick.job.task for pick in scheduler.next_batch(20))
        scheduler.withdraw(coming)
    assert served["comes and goes"] <= served["stays"] + 5


@given(st.data(), st.integers(2, 100), st.integers(0, 5))
def test_a_job_of_one_row_goes_into_the_next_batch_after_a_huge_job(
    data: st.DataObject, budget: int, before: int
) -> None:
    size = st.integers(1, budget // 2)
    huge = FakeJob(*data.draw(st.lists(size, min_size=200, max_size=200)))
    scheduler = queue([huge])
    for _ in range(before):
        scheduler.next_batch(budget)
    small = FakeJob(data.draw(size))
    scheduler.admit(small, PLENTY)
    assert small in {pick.job for pick in scheduler.next_batch(budget)}


@pytest.mark.parametrize("tasks", ["aaa", "abc"])
def test_huge_jobs_share_every_batch(tasks: str) -> None:
    jobs = [FakeJob(*[10] * 100, task=task) for task in tasks]
    scheduler = queue(jobs)
    for _ in range(20):
        assert {pick.job for pick in scheduler.next_batch(100)} == set(jobs)


def test_a_huge_job_alone_fills_the_batch() -> None:
    assert len(queue([FakeJob(*[10] * 100)]).next_batch(100)) == 10


@pytest.mark.parametrize("tasks", ["aaa", "abc"])
def test_short_jobs_share_a_batch_in_the_order_they_came(tasks: str) -> None:
    jobs = [FakeJob(*sizes, task=task) for sizes, task in zip(((5,), (5, 5), (5,)), tasks, strict=True)]
    assert queue(jobs).next_batch(40) == [(jobs[0], 0), (jobs[1], 0), (jobs[1], 1), (jobs[2], 0)]


def test_a_row_larger_than_a_batch_runs_alone() -> None:
    jobs = [FakeJob(3), FakeJob(30), FakeJob(3)]
    assert run_out(queue(jobs), 10) == [[(jobs[0], 0)], [(jobs[1], 0)], [(jobs[2], 0)]]


def test_what_is_withdrawn_does_not_run_and_frees_its_place_at_once() -> None:
    gone, other = FakeJob(10, 10, 10), FakeJob(5)
    scheduler = queue([gone, other])
    assert scheduler.next_batch(10) == [(gone, 0)]
    scheduler.withdraw(gone)
    assert (scheduler.queued_tokens, len(scheduler)) == (5, 1)
    assert run_out(scheduler, 10) == [[(other, 0)]]
    scheduler.withdraw(gone)
    scheduler.withdraw(other)
    assert (scheduler.queued_tokens, len(scheduler)) == (0, 0)


def test_what_is_too_late_is_given_back_and_does_not_run() -> None:
    late, later, never = FakeJob(1, deadline=10), FakeJob(2, 2, deadline=20), FakeJob(3)
    scheduler = queue([later, never, late])
    assert scheduler.expire(9.9) == []
    assert scheduler.expire(10) == [late]
    assert scheduler.queued_tokens == 7
    assert scheduler.next_batch(2) == [(later, 0)]
    assert scheduler.expire(20) == [later]
    assert scheduler.expire(1e9) == []
    assert run_out(scheduler, 10) == [[(never, 0)]]


def test_a_task_alone_gets_half_of_the_queue_and_leaves_half_to_who_comes() -> None:
    scheduler = Scheduler[FakeJob]()
    assert sum(admits(scheduler, FakeJob(1, task="a"), limit=20) for _ in range(50)) == 10
    assert sum(admits(scheduler, FakeJob(1, task="b"), limit=20) for _ in range(50)) == 5
    assert sum(admits(scheduler, FakeJob(1, task="a"), limit=20) for _ in range(50)) == 0
    assert sum(admits(scheduler, FakeJob(1, task="c"), limit=20) for _ in range(50)) == 3


@given(st.integers(1, 8), st.integers(20, 400))
def test_however_many_tasks_ask_without_end_there_is_room_for_another(tasks: int, limit: int) -> None:
    scheduler = Scheduler[FakeJob]()
    for _ in range(limit):
        for task in range(tasks):
            admits(scheduler, FakeJob(1, task=str(task)), limit)
    assert scheduler.queued_tokens >= limit * tasks // (tasks + 1)
    assert admits(scheduler, FakeJob(1, task="another"), limit)


def test_a_heavier_task_may_hold_more() -> None:
    scheduler = Scheduler[FakeJob]({"heavy": 3})
    assert sum(admits(scheduler, FakeJob(1, task="heavy"), limit=40) for _ in range(50)) == 30
    assert sum(admits(scheduler, FakeJob(1, task="light"), limit=40) for _ in range(50)) == 5


def test_a_job_larger_than_the_queue_is_taken_and_leaves_room_to_others() -> None:
    scheduler = Scheduler[FakeJob]()
    assert admits(scheduler, FakeJob(*[10] * 10, task="a"), limit=20)
    assert admits(scheduler, FakeJob(*[10] * 10, task="b"), limit=20)
    assert admits(scheduler, FakeJob(1, task="c"), limit=20)
    assert scheduler.queued_tokens == 201


@given(st.lists(st.integers(1, 500), max_size=20), TASKS, st.integers(1, 500), st.integers(1, 200), BUDGETS)
def test_when_what_was_missing_has_left_a_refused_job_is_taken(
    others: list[int], task: str, tokens: int, limit: int, budget: int
) -> None:
    scheduler = Scheduler[FakeJob]({"a": 0.5, "b": 2})
    for number, other in enumerate(others):
        admits(scheduler, FakeJob(*[1] * other, task="abcd"[number % 4]), limit)
    before = scheduler.queued_tokens
    missing = scheduler.missing(task, tokens, limit)
    while before - scheduler.queued_tokens < missing:
        assert scheduler.next_batch(budget)
    assert scheduler.missing(task, tokens, limit) == 0


def test_what_is_ahead_of_a_task_is_its_own_and_the_others_share_of_that_time() -> None:
    scheduler = queue([FakeJob(*[1] * 100, task="hot"), FakeJob(*[1] * 10, task="calm")])
    assert scheduler.ahead("new") == 0
    assert scheduler.ahead("calm") == 20
    assert scheduler.ahead("hot") == 110


@given(st.lists(st.tuples(ROWS, st.booleans()), min_size=1, max_size=8), BUDGETS)
def test_a_job_apart_shares_no_batch_and_waits_for_nobody_longer(
    given: list[tuple[list[int], bool]], budget: int
) -> None:
    jobs = [FakeJob(*rows, apart=apart) for rows, apart in given]
    batches = run_out(queue(jobs), budget)
    for batch in batches:
        assert len({pick.job for pick in batch}) == 1 or not any(pick.job.apart for pick in batch)
    for job in jobs:
        if job.apart and job.tokens <= budget:
            assert [job in [pick.job for pick in batch] for batch in batches].count(True) == 1
    firsts = [pick.job for batch in batches for pick in batch if pick.row == 0]
    assert firsts == jobs


class QueueMachine(RuleBasedStateMachine):
    """Any order of admissions, batches, withdrawals and expiries, beside a list of what should be waiting."""

    LIMIT = 150

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler[FakeJob]({"a": 2, "b": 0.5}, credit=1, patience=2)
        self.left: dict[FakeJob, list[int]] = {}  # the numbers of the rows that have not run
        self.now = 0

    def waiting(self) -> int:
        """Tokens."""
        return sum(job.sizes[row] for job, rows in self.left.items() for row in rows)

    @rule(
        sizes=ROWS, task=TASKS, seconds=st.integers(1, 20), apart=st.booleans(), promised=st.sampled_from([0, 30, inf])
    )
    def admit(self, sizes: list[int], task: str, seconds: int, apart: bool, promised: float) -> None:
        job = FakeJob(*sizes, task=task, deadline=self.now + seconds, apart=apart)
        admitted = admits(self.scheduler, job, self.LIMIT, promised)
        if admitted:
            self.left[job] = list(range(len(sizes)))
        assert admitted or self.left

    @rule(budget=BUDGETS)
    def run_a_batch(self, budget: int) -> None:
        batch = self.scheduler.next_batch(budget)
        assert bool(batch) is bool(self.left)
        for job, row in batch:
            assert self.left[job].pop(0) == row
            if not self.left[job]:
                del self.left[job]

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(list(self.left)))
        self.scheduler.withdraw(job)
        del self.left[job]

    @rule(seconds=st.integers(1, 10))
    def expire(self, seconds: int) -> None:
        self.now += seconds
        late = self.scheduler.expire(self.now)
        assert set(late) == {job for job in self.left if job.deadline <= self.now}
        for job in late:
            del self.left[job]

    @rule()
    def drain(self) -> None:
        drained = self.scheduler.drain()
        assert len(drained) == len(set(drained))
        assert set(drained) == set(self.left)
        self.left.clear()
        assert self.scheduler.next_batch(10) == []

    @invariant()
    def queued_tokens_are_those_that_wait(self) -> None:
        assert self.scheduler.queued_tokens == self.waiting()
        assert 0 <= self.scheduler.tokens_within <= self.waiting()
        assert len(self.scheduler) == len(self.left)

    @invariant()
    def nothing_is_ahead_of_who_has_nothing_waiting_and_never_more_than_all(self) -> None:
        for task in "abcd":
            own = [job for job in self.left if job.task == task]
            held = sum(job.sizes[row] for job in own for row in self.left[job])
            assert bool(self.scheduler.ahead(task)) is bool(held)
            assert held <= self.scheduler.ahead(task) <= self.waiting()


TestQueue = QueueMachine.TestCase
