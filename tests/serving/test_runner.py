"""The runner: batches form without a timer, a fault stays in its batch, and every job ends."""

import gc
import logging
import os
import platform
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import inf
from pathlib import Path
from threading import Barrier, Thread
from time import monotonic, sleep

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.engine.bank import Resident, bare_resident
from service.engine.base_model import BaseModel
from service.engine.engine import Engine, Row
from service.errors import DeadlineExceeded, EngineFault, Overloaded, RootstockError, Stopping
from service.metrics import Metrics
from service.serving.jobs import Course, Job
from service.serving.pace import BATCHES, Limits, Pace
from service.serving.runner import NICENESS, SET_ATTRIBUTES, SLICE, Runner, give_way
from service.serving.scheduler import CREDIT, PATIENCE, Scheduler
from service.tasks import Floats
from tests.serving.fakes import TIMEOUT, FakeEngine, numbered
from tests.tiny import alone, make_resident, random_row

Answer = Future[list[Floats]]


class Service:
    """A runner over a fake engine, its metrics, and a clock that stands until it is moved."""

    def __init__(self, resident: Resident, batch_tokens: int = 1000, queue_tokens: int = 10**6) -> None:
        self.resident = resident
        self.engine = FakeEngine()
        self.metrics = Metrics()
        self.now = 100.0
        self.scheduler = Scheduler[Job](credit=CREDIT, patience=PATIENCE)
        self.pace = Pace(
            Limits(
                batch_tokens,
                batch_seconds=0.1,
                queue_tokens=queue_tokens,
                queue_seconds=2.0,
                short_queue_seconds=0.2,
            )
        )
        self.runner = Runner(self.engine, self.scheduler, self.pace, self.metrics, clock=lambda: self.now)

    def submit(
        self, *numbers: int, length: int = 4, task: str = "mood", deadline: float = inf, spare: bool = False
    ) -> Answer:
        rows = [numbered(self.resident, number, length) for number in numbers]
        return self.runner.submit(rows, task, deadline, spare=spare)

    def teach(self, tokens_a_second: float) -> None:
        """As if batches had run at this rate."""
        for _ in range(BATCHES):
            self.pace.ran(self.pace.batch_tokens, self.pace.batch_tokens / tokens_a_second, full=True)

    def run(self, number: int, seconds: float) -> None:
        """A batch of one row, that takes so long by the runner's clock."""
        held = self.hold(number)
        self.now += seconds
        self.engine.open.set()
        held.result(TIMEOUT)

    def hold(self, *numbers: int) -> Answer:
        """Submits rows and keeps the engine busy with them until `engine.open` is set."""
        self.engine.open.clear()
        held = self.submit(*numbers)
        self.engine.wait_for_batch()
        return held

    def close(self) -> None:
        self.engine.open.set()
        self.runner.stop(TIMEOUT)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"rootstock_{name}", labels)


@pytest.fixture(scope="module")
def bare(tiny_base: BaseModel) -> Resident:
    return bare_resident(tiny_base)


@pytest.fixture
def service(bare: Resident) -> Iterator[Service]:
    """Batches hold all that waits."""
    service = Service(bare)
    service.runner.start()
    yield service
    service.close()


@pytest.fixture
def narrow(bare: Resident) -> Iterator[Service]:
    """Batches hold one row."""
    service = Service(bare, batch_tokens=4)
    service.runner.start()
    yield service
    service.close()


def numbers(answer: Answer) -> list[int]:
    return [int(output[0]) for output in answer.result(TIMEOUT)]


def fault(answer: Answer) -> BaseException | None:
    return answer.exception(TIMEOUT)


def until(condition: Callable[[], bool]) -> None:
    end = monotonic() + TIMEOUT
    while not condition():
        assert monotonic() < end
        sleep(0.001)


def refuses(service: Service) -> bool:
    try:
        service.submit(0)
    except Stopping:
        return True
    return False


def test_two_requests_at_once_on_an_idle_service_are_both_answered(service: Service) -> None:
    start, answers = Barrier(2), {}

    def request(number: int) -> None:
        start.wait(TIMEOUT)
        answers[number] = numbers(service.submit(number))

    callers = [Thread(target=request, args=(number,)) for number in (1, 2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(TIMEOUT)
    assert answers == {1: [1], 2: [2]}


def test_what_comes_during_a_batch_goes_together_in_the_next_one(service: Service) -> None:
    first = service.hold(1)
    others = [service.submit(2), service.submit(3, 4), service.submit(5)]
    service.engine.open.set()
    assert [numbers(answer) for answer in (first, *others)] == [[1], [2], [3, 4], [5]]
    assert service.engine.batches == [[1], [2, 3, 4, 5]]


def test_a_job_over_several_batches_is_answered_in_order(narrow: Service) -> None:
    first = narrow.hold(0)
    long, short = narrow.submit(5, 3, 8, 1), narrow.submit(2)
    narrow.engine.open.set()
    assert [numbers(answer) for answer in (first, long, short)] == [[0], [5, 3, 8, 1], [2]]
    assert narrow.engine.batches == [[0], [5], [2], [3], [8], [1]]


def test_a_job_without_rows_is_answered_at_once(service: Service) -> None:
    assert service.submit().result(timeout=0) == []
    assert numbers(service.submit(1)) == [1]


def test_an_engine_that_raises_fails_the_jobs_of_that_batch_and_no_others(service: Service) -> None:
    service.engine.faults[1] = RuntimeError("out of memory")
    before = service.hold(1)
    hit = [service.submit(2), service.submit(3)]
    service.engine.open.set()
    assert numbers(before) == [1]
    for answer in hit:
        with pytest.raises(EngineFault, match="the batch that held this request: RuntimeError"):
            answer.result(TIMEOUT)
    assert numbers(service.submit(4)) == [4]


def test_the_rest_of_a_job_whose_batch_failed_is_not_run(narrow: Service) -> None:
    narrow.engine.faults[2] = RuntimeError()
    first = narrow.hold(0)
    long = narrow.submit(1, 2, 3, 4)
    narrow.engine.open.set()
    assert isinstance(fault(long), EngineFault)
    assert [numbers(first), numbers(narrow.submit(9))] == [[0], [9]]
    assert narrow.engine.batches == [[0], [1], [2], [9]]


OUT_OF_MEMORY: list[Exception] = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
]
out_of_memory = pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["python", "gpu", "cpu"])


def short_of_memory(service: Service, fits: Callable[[Sequence[int]], bool], error: Exception) -> None:
    """An engine that raises the error for every batch that does not fit."""
    run = service.engine.run

    def limited(rows: Sequence[Row]) -> list[Floats]:
        outputs = run(rows)
        if not fits([int(row.tokens.ids[0]) for row in rows]):
            raise type(error)(*error.args)  # a new one, as one that was raised holds the rows
        return outputs

    service.engine.run = limited  # type: ignore[method-assign]


@out_of_memory
def test_a_batch_that_is_too_large_for_the_memory_is_answered_in_parts(service: Service, error: Exception) -> None:
    short_of_memory(service, lambda batch: len(batch) <= 2, error)
    first = service.hold(0)
    waiting = [service.submit(1, 2, 3), service.submit(4), service.submit(5, 6)]
    service.engine.open.set()
    assert [numbers(answer) for answer in (first, *waiting)] == [[0], [1, 2, 3], [4], [5, 6]]
    assert (service.sample("engine_faults_total"), service.sample("queued_tokens")) == (0, 0)


@pytest.mark.parametrize(
    ("rows", "heard"),
    [(3, [(4, False), (12, True), (4, False)]), (2, [(4, False), (4, False), (8, False), (4, False)])],
)
def test_how_large_batches_may_be_is_learned_from_full_ones_that_ran_in_one(
    bare: Resident, monkeypatch: pytest.MonkeyPatch, rows: int, heard: list[tuple[int, bool]]
) -> None:
    """`rows`: for which the memory suffices; three would be a batch."""
    service, said = Service(bare, batch_tokens=12), list[tuple[int, bool]]()
    monkeypatch.setattr(service.pace, "ran", lambda tokens, seconds, full: said.append((tokens, full)))
    short_of_memory(service, lambda batch: len(batch) <= rows, MemoryError())
    service.runner.start()
    first = service.hold(0)
    others = service.submit(1, 2, 3), service.submit(4)
    service.engine.open.set()
    assert [numbers(answer) for answer in (first, *others)] == [[0], [1, 2, 3], [4]]
    assert said == heard
    service.close()


@out_of_memory
def test_a_row_that_is_too_large_for_the_memory_fails_its_job_and_no_other(service: Service, error: Exception) -> None:
    short_of_memory(service, lambda batch: 13 not in batch, error)
    first = service.hold(0)
    large, others = service.submit(12, 13, 14), [service.submit(1, 2), service.submit(3)]
    service.engine.open.set()
    with pytest.raises(EngineFault, match=f"the batch that held this request: {type(error).__name__}"):
        large.result(TIMEOUT)
    assert [numbers(answer) for answer in (first, *others, service.submit(4))] == [[0], [1, 2], [3], [4]]
    assert [14] not in service.engine.batches  # nobody waits for it any more
    assert (service.sample("engine_faults_total"), service.sample("queued_tokens")) == (1, 0)
    until(lambda: service.runner.busy_seconds() == 0)


def test_what_is_apart_is_run_in_one_batch_or_not(service: Service) -> None:
    short_of_memory(service, lambda batch: len(batch) <= 2, MemoryError())
    rows = [numbered(service.resident, number) for number in (1, 2, 3)]
    assert isinstance(fault(service.runner.submit(rows, "+", apart=True)), EngineFault)
    assert service.engine.batches == [[1, 2, 3]]


def test_a_batch_that_the_memory_did_not_suffice_for_keeps_no_adapter(
    service: Service, tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("service.serving.runner"), "disabled", True)  # pytest keeps what is logged
    short_of_memory(service, lambda batch: 1 not in batch, MemoryError())
    resident = make_resident(tiny_base)
    gone = weakref.ref(resident)
    failed = service.runner.submit([numbered(resident, 1), numbered(resident, 2)], "mood")
    assert isinstance(fault(failed), EngineFault)
    until(lambda: service.runner.busy_seconds() == 0)
    del resident, failed
    gc.collect()
    assert gone() is None


def test_an_engine_that_forgets_a_row_fails_the_batch_and_not_the_service(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(service.engine, "run", lambda rows: [])
        assert isinstance(fault(service.submit(1, 2)), EngineFault)
    assert numbers(service.submit(3)) == [3]


def test_a_request_that_is_cancelled_while_it_waits_is_not_run(service: Service) -> None:
    first = service.hold(1)
    cancelled, other = service.submit(2), service.submit(3)
    assert cancelled.cancel()
    service.engine.open.set()
    assert [numbers(first), numbers(other)] == [[1], [3]]
    assert service.engine.batches == [[1], [3]]


def test_a_request_that_is_cancelled_in_its_batch_harms_nobody(bare: Resident) -> None:
    service = Service(bare)
    cancelled, beside = service.submit(1), service.submit(2)
    service.engine.open.clear()
    service.runner.start()
    service.engine.wait_for_batch()
    assert cancelled.cancel()
    service.engine.open.set()
    assert [numbers(beside), numbers(service.submit(3))] == [[2], [3]]
    assert service.engine.batches == [[1, 2], [3]]
    service.close()


def test_a_full_queue_refuses_and_still_answers_what_it_holds(bare: Resident) -> None:
    service = Service(bare, queue_tokens=16)
    held = [service.submit(1), service.submit(2)]
    with pytest.raises(Overloaded, match="8 tokens are waiting; there is room for 16"):
        service.submit(3)
    other = service.submit(4, task="colour")
    service.runner.start()
    assert [numbers(answer) for answer in (*held, other)] == [[1], [2], [4]]
    service.close()


def test_who_is_refused_hears_how_long_the_work_that_is_too_much_takes(bare: Resident) -> None:
    service = Service(bare, batch_tokens=40, queue_tokens=400)
    service.teach(10)  # 20 tokens in 2 seconds, but two batches at least
    for number in range(10):
        service.submit(number)
    assert service.scheduler.queued_tokens == 40
    with pytest.raises(Overloaded) as refused:
        service.submit(3)
    assert refused.value.retry_after == pytest.approx(0.1)
    with pytest.raises(Overloaded):
        service.runner.check("mood")
    service.runner.check("colour")


def test_what_nobody_waits_for_is_taken_if_it_fits_into_a_batch_with_what_waits(bare: Resident) -> None:
    service = Service(bare, batch_tokens=40)
    large = [numbered(bare, number) for number in range(20)]
    small = large[:2]
    idle = service.runner.submit(large, "mood", spare=True)
    with pytest.raises(Overloaded, match="80 tokens are waiting, and nobody waits for 8 more"):
        service.runner.submit(small, "mood", spare=True)
    assert idle.cancel()
    service.submit(1)
    service.runner.submit(small, "mood", spare=True)
    assert service.scheduler.queued_tokens == 4


def test_spare_work_goes_along_with_a_request_and_alone_where_none_comes_for_as_long_as_a_batch_takes(
    service: Service,
) -> None:
    service.run(1, seconds=1000)
    spare = service.submit(2, spare=True)
    assert numbers(service.submit(3)) == [3]
    assert numbers(spare) == [2]
    service.run(4, seconds=0.01)
    assert numbers(service.submit(5, spare=True)) == [5]
    assert service.engine.batches == [[1], [3, 2], [4], [5]]


def test_a_stop_answers_spare_work_at_once(service: Service) -> None:
    service.run(1, seconds=1000)
    spare = service.submit(2, spare=True)
    service.runner.stop(TIMEOUT)
    assert numbers(spare) == [2]


def test_what_is_cancelled_while_it_waits_frees_its_place_at_once(bare: Resident) -> None:
    service = Service(bare, queue_tokens=16)
    held = [service.submit(1), service.submit(2)]
    assert service.sample("queued_tokens") == 8
    assert held[0].cancel()
    assert service.sample("queued_tokens") == 4
    held.append(service.submit(3))
    service.runner.start()
    assert [numbers(answer) for answer in held[1:]] == [[2], [3]]
    service.close()


def test_what_is_too_late_is_not_run(service: Service) -> None:
    first = service.hold(1)
    late, later = service.submit(2, deadline=101.0), service.submit(3, deadline=102.0)
    service.now = 101.5
    service.engine.open.set()
    assert [numbers(first), numbers(later)] == [[1], [3]]
    with pytest.raises(DeadlineExceeded):
        late.result(TIMEOUT)
    assert service.engine.batches == [[1], [3]]


def test_the_rest_of_a_job_is_not_run_when_its_time_is_over(narrow: Service) -> None:
    first = narrow.hold(0)
    long = narrow.submit(1, 2, 3, deadline=101.0)
    narrow.now = 101.0
    narrow.engine.open.set()
    assert isinstance(fault(long), DeadlineExceeded)
    assert [numbers(first), numbers(narrow.submit(4))] == [[0], [4]]
    assert narrow.engine.batches == [[0], [4]]


def test_what_cannot_be_answered_in_time_is_refused_at_once(bare: Resident) -> None:
    service = Service(bare, batch_tokens=40)
    service.teach(40)
    with pytest.raises(DeadlineExceeded, match="its time was over before it could wait"):
        service.submit(1, deadline=100.0)
    with pytest.raises(DeadlineExceeded, match=r"40 tokens take about 1.00 s, and 0.50 s are left"):
        service.submit(*range(10), deadline=100.5)
    service.submit(*range(10), deadline=101.5)
    with pytest.raises(Overloaded, match=r"its turn comes in about 1.00 s, and 0.50 s are left") as refused:
        service.submit(1, deadline=100.5)
    assert refused.value.retry_after == pytest.approx(1.0)
    service.submit(1, task="colour", deadline=100.5)  # has its share from now on


def test_a_rush_of_one_task_delays_the_others_by_a_batch_and_no_more(bare: Resident) -> None:
    service = Service(bare, batch_tokens=40)
    hot = [service.submit(*range(100), task="hot") for _ in range(5)]
    calm = [service.submit(1000 + number, task=f"calm-{number}") for number in range(3)]
    service.runner.start()
    assert [numbers(answer) for answer in calm] == [[1000], [1001], [1002]]
    assert {1000, 1001, 1002} <= set(service.engine.batches[0])
    assert [len(numbers(answer)) for answer in hot] == [100] * 5
    service.close()


def test_where_one_task_is_refused_the_others_have_room_for_what_is_within_their_share(bare: Resident) -> None:
    service = Service(bare, batch_tokens=100)
    service.teach(1000)
    service.runner.start()
    service.run(0, seconds=0.1)
    held = [service.hold(0), *(service.submit(*range(100), task="hot") for _ in range(3))]
    with pytest.raises(Overloaded, match="there is room for 200"):
        service.submit(*range(20), task="hot")
    calm = service.submit(*range(50), task="calm")
    with pytest.raises(Overloaded, match="there is room for 200"):
        service.submit(*range(50), task="calm")
    service.engine.open.set()
    assert [len(numbers(answer)) for answer in (*held, calm)] == [1, 100, 100, 100, 50]
    service.close()


def test_a_stop_answers_what_waits_and_takes_nothing_new(narrow: Service) -> None:
    admitted = [narrow.hold(1), narrow.submit(2, 3, 4), narrow.submit(5)]
    stopper = Thread(target=narrow.runner.stop)
    stopper.start()
    until(lambda: refuses(narrow))
    assert not any(answer.done() for answer in admitted)
    narrow.engine.open.set()
    stopper.join(TIMEOUT)
    assert [numbers(answer) for answer in admitted] == [[1], [2, 3, 4], [5]]
    assert refuses(narrow)


def test_a_stop_waits_only_its_time_and_then_fails_what_is_left(service: Service) -> None:
    running = service.hold(1)
    waiting = service.submit(2)
    service.runner.stop(timeout=0)
    assert isinstance(running.exception(timeout=0), Stopping)
    assert isinstance(waiting.exception(timeout=0), Stopping)


def test_a_service_stopped_before_it_started_ends_what_waits(bare: Resident) -> None:
    service = Service(bare)
    waiting = service.submit(1)
    service.runner.stop()
    assert isinstance(waiting.exception(timeout=0), Stopping)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_if_the_thread_dies_every_job_ends_and_new_ones_are_refused(narrow: Service) -> None:
    narrow.engine.faults[1] = SystemExit()
    first = narrow.hold(1)
    whole, part, waiting = narrow.submit(2), narrow.submit(3, 4), narrow.submit(5)
    narrow.engine.open.set()
    assert numbers(first) == [1]
    assert [type(fault(answer)) for answer in (whole, part, waiting)] == [EngineFault] * 3
    with pytest.raises(EngineFault, match="must be started again"):
        narrow.submit(1)
    until(lambda: narrow.runner.busy_seconds() is None)


def test_busy_seconds_tell_idle_busy_and_dead(bare: Resident) -> None:
    service = Service(bare)
    assert service.runner.busy_seconds() is None
    service.runner.start()
    assert service.runner.busy_seconds() == 0
    answer = service.hold(1)
    service.now += 7
    assert service.runner.busy_seconds() == 7
    service.engine.open.set()
    assert numbers(answer) == [1]
    until(lambda: service.runner.busy_seconds() == 0)
    service.close()
    assert service.runner.busy_seconds() is None


def test_the_metrics_count_rows_tokens_tasks_and_seconds(service: Service, tiny_base: BaseModel) -> None:
    other = make_resident(tiny_base)
    first = service.hold(1)
    service.now += 1
    course = Course()
    second = service.runner.submit(
        [numbered(service.resident, 2, length=5), numbered(other, 3, length=6), numbered(other, 4, length=7)],
        "+",
        course=course,
    )
    assert (service.sample("queued_tokens"), service.sample("queued_jobs")) == (18, 1)
    assert (service.sample("batch_running_seconds"), service.sample("engine_up")) == (1, 1)
    service.now += 2
    service.engine.open.set()
    assert [numbers(first), numbers(second)] == [[1], [2, 3, 4]]
    assert (service.sample("queued_tokens"), service.sample("queued_jobs")) == (0, 0)
    assert service.sample("tokens_total") == 22
    assert service.sample("rows_total", kind="embedding", method="head") == 2
    assert service.sample("rows_total", kind="classification", method="houlsby") == 2
    assert (service.sample("batch_tokens_count"), service.sample("batch_tokens_sum")) == (2, 22)
    assert (service.sample("batch_rows_count"), service.sample("batch_rows_sum")) == (2, 4)
    assert (service.sample("batch_tasks_count"), service.sample("batch_tasks_sum")) == (2, 3)
    assert (service.sample("batch_seconds_count"), service.sample("batch_seconds_sum")) == (2, 3)
    assert (course.queue_seconds, course.engine_seconds) == (2, 0)
    assert [(batch.rows, batch.tokens, batch.adapters) for batch in course.batches] == [(3, 18, 2)]
    assert service.sample("engine_faults_total") == 0


def test_a_job_of_several_batches_knows_each_and_waits_for_the_first(narrow: Service) -> None:
    narrow.hold(9)
    course = Course()
    answer = narrow.runner.submit([numbered(narrow.resident, number) for number in (1, 2, 3)], "mood", course=course)
    narrow.now += 5
    narrow.engine.open.set()
    assert numbers(answer) == [1, 2, 3]
    assert len(course.batches) == len(narrow.engine.batches) - 1 > 1
    assert (course.admitted, course.queue_seconds, course.engine_seconds) == (100, 5, 0)


def test_a_batch_that_fails_is_counted_as_a_fault_alone(narrow: Service) -> None:
    narrow.engine.faults[1] = RuntimeError()
    assert isinstance(fault(narrow.submit(1, 2, 3)), EngineFault)
    assert numbers(narrow.submit(4)) == [4]
    assert narrow.sample("engine_faults_total") == 1
    assert narrow.sample("batch_rows_sum") == narrow.sample("batch_seconds_count") == 2


def test_nothing_that_stopped_is_counted_as_waiting(service: Service) -> None:
    service.hold(1)
    service.submit(2)
    assert service.sample("queued_tokens") == 4
    service.runner.stop(timeout=0)
    assert service.sample("queued_tokens") == 0


def test_an_idle_runner_keeps_no_adapter_in_memory(service: Service, tiny_base: BaseModel) -> None:
    resident = make_resident(tiny_base)
    gone = weakref.ref(resident)
    assert numbers(service.runner.submit([numbered(resident, 1)], "mood")) == [1]
    del resident
    until(lambda: gone() is None)  # without the garbage collector


def test_mixed_requests_get_what_they_would_get_alone(tiny_base: BaseModel) -> None:
    engine = Engine(tiny_base)
    residents = [
        make_resident(tiny_base, seed=1),
        make_resident(tiny_base, seed=2, kind="regression"),
        bare_resident(tiny_base),
    ]
    requests = [
        [Row(random_row(5 + seed, seed), resident) for seed in range(6)] for resident in residents for _ in range(2)
    ]
    runner = Runner(engine, Scheduler[Job](), Pace(Limits(64)), Metrics())
    answers = [runner.submit(rows, str(number % 4)) for number, rows in enumerate(requests)]
    runner.start()
    for rows, answer in zip(requests, answers, strict=True):
        for row, output in zip(rows, answer.result(TIMEOUT), strict=True):
            np.testing.assert_allclose(output, alone(engine, row), rtol=1e-4, atol=1e-4)
    runner.stop(TIMEOUT)


ACTIONS = st.one_of(
    st.tuples(st.just("submit"), st.integers(1, 6)),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.sampled_from(["hold", "release"]), st.just(0)),
    st.tuples(st.just("pass"), st.integers(1, 3)),
    st.tuples(st.sampled_from(["fault", "memory", "die", "stop"]), st.integers(0, 3)),
)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@given(st.lists(ACTIONS, max_size=30))
def test_every_job_ends(bare: Resident, actions: Sequence[tuple[str, int]]) -> None:
    service = Service(bare, batch_tokens=12, queue_tokens=80)
    service.runner.start()
    admitted: dict[Answer, list[int]] = {}
    for place, (action, number) in enumerate(actions):
        if action == "submit":
            rows = list(range(100 * place, 100 * place + number))
            try:
                admitted[service.submit(*rows, task="abc"[place % 3], deadline=service.now + number)] = rows
            except (Overloaded, EngineFault):
                continue
        elif action == "cancel" and number < len(admitted):
            list(admitted)[number].cancel()
        elif action == "hold":
            service.engine.open.clear()
        elif action == "release":
            service.engine.open.set()
        elif action == "pass":
            service.now += number
        elif action == "fault":
            service.engine.faults[len(service.engine.batches) + number] = RuntimeError()
        elif action == "memory":
            service.engine.faults[len(service.engine.batches) + number] = MemoryError()
        elif action == "die":
            service.engine.faults[len(service.engine.batches) + number] = SystemExit()
        elif action == "stop":
            service.runner.stop(timeout=0)
    service.close()
    for answer, rows in admitted.items():
        assert answer.done()
        if not answer.cancelled():
            assert isinstance(fault(answer), RootstockError) or numbers(answer) == rows
    assert (len(service.scheduler), service.scheduler.queued_tokens) == (0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness of their own on Linux alone")
def test_the_engines_threads_give_way_to_others_and_nobody_else_does() -> None:
    with ThreadPoolExecutor(1, initializer=give_way) as pool:
        thread = pool.submit(threading.get_native_id).result()
        assert os.getpriority(os.PRIO_PROCESS, thread) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
        told = Path(f"/proc/self/task/{thread}/sched")  # by kernels that were built so
        slices = re.findall(r"se\.slice +: +(\d+)", told.read_text()) if told.exists() else []
        if slices and platform.machine() in SET_ATTRIBUTES and _release() >= (6, 12):
            assert slices == [str(SLICE)]


def _release() -> tuple[int, ...]:
    """Of the kernel; major and minor."""
    return tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])
