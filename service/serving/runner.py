"""The one engine thread: takes what waits the moment the engine is free, and sees that every job ends."""

import logging
import os
import platform
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from ctypes import CDLL
from math import inf
from time import monotonic
from weakref import ref

from service.engine.engine import Engine, Row, ran_out_of_memory
from service.errors import DeadlineExceeded, EngineFault, Overloaded, Stopping
from service.metrics import Metrics
from service.serving.jobs import Batch, Course, Job
from service.serving.pace import Pace
from service.serving.scheduler import Pick, Scheduler
from service.serving.spare import Spare
from service.tasks import Floats

log = logging.getLogger(__name__)

NICENESS = 10  # of the engine's threads, more than others have: a ninth of their weight, where all want to run
SLICE = 20_000_000  # nanoseconds: what they run at a time
KEEP_POLICY = 8  # whatever the operator chose
SET_ATTRIBUTES = {"x86_64": 314, "aarch64": 274}  # the number of Linux's sched_setattr, which Python has no name for
NARROW = 32  # a queue that has less than this part of its limit free is full for who has not been read yet
Watch = Callable[[Batch, Sequence[Course]], None]


class Runner:
    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler[Job],
        pace: Pace,
        metrics: Metrics,
        clock: Callable[[], float] = monotonic,
        watch: Watch | None = None,
    ) -> None:
        """`watch` is called for each batch that has run, before its jobs hear of it."""
        self._engine = engine
        self._scheduler = scheduler
        self._spare = Spare[Job]()
        self._pace = pace
        self._metrics = metrics
        self._clock = clock
        self._watch = watch
        self._ready = threading.Condition()  # guards scheduler, spare, pace and the four fields below
        self._stopping = self._ended = False
        self._running: Sequence[Pick[Job]] = ()
        self._batch_started: float | None = None
        self._full = False  # whether the present batch is; the engine thread's own, as the next one
        self._batch_seconds = 0.0  # of the last one
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        metrics.queued_tokens.set_function(lambda: scheduler.queued_tokens)
        metrics.queue_limit.set_function(lambda: pace.queue_tokens(clock()))
        metrics.queued_jobs.set_function(lambda: len(scheduler))
        metrics.engine_up.set_function(self._thread.is_alive)
        metrics.running_seconds.set_function(lambda: self.busy_seconds() or 0.0)

    def start(self) -> None:
        self._thread.start()

    def submit(
        self,
        rows: Sequence[Row],
        task: str,
        deadline: float = inf,
        apart: bool = False,
        spare: bool = False,
        course: Course | None = None,
    ) -> Future[list[Floats]]:
        """Queues one request's rows; the future brings their raw outputs, in order. Cancelling it frees their place.

        Args:
            task: in whose line they wait.
            deadline: by the runner's clock; what has not run by then fails with `DeadlineExceeded`.
            apart: in batches of their own.
            spare: nobody waits for them, and they make way (`Spare`).
            course: is told when they wait and run.

        Raises:
            Overloaded: the queue is full, or what is ahead takes longer than the deadline allows; of spare rows, if
                they would not fit into a batch with what waits.
            DeadlineExceeded: it would be missed by an idle engine too.
            Stopping, EngineFault
        """
        now = self._clock()
        job = Job(rows, task, now, deadline, apart, course)
        with self._ready:
            if spare:
                self._check_running()
                self._spare.admit(job, self._scheduler.queued_tokens, self._pace.batch_tokens)
            else:
                self._admit(job, now)
            self._ready.notify()
        # A future keeps its callbacks: one that held the job would make a circle, and keep its adapters in memory.
        known = ref(job)
        job.future.add_done_callback(lambda _: self._withdraw(known()))
        return job.future

    def check(self, task: str) -> None:
        """For who would know beforehand, without the cost of reading a request.

        Raises:
            Overloaded: the queue has no room for a job of this task that is worth it.
            Stopping, EngineFault
        """
        now = self._clock()
        with self._ready:
            self._room(task, self._pace.queue_tokens(now) // NARROW, now)

    def stop(self, timeout: float = 30.0) -> None:
        """Takes no new work, answers what waits, and ends the thread; what is left after `timeout` seconds fails."""
        with self._ready:
            self._stopping = True
            self._ready.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)
        self._fail_all(Stopping("the service stopped before this request was answered"))

    def busy_seconds(self) -> float | None:
        """How long the present batch has been running, 0 when idle, None when the thread is not alive."""
        if not self._thread.is_alive():
            return None
        started = self._batch_started
        return 0.0 if started is None else self._clock() - started

    def _admit(self, job: Job, now: float) -> None:
        tokens = sum(job.sizes)
        limit = self._room(job.task, tokens, now)
        if not job.future.done():
            self._refuse_what_comes_too_late(job, tokens, now)
            self._scheduler.admit(job, limit, self._pace.promised(now))

    def _room(self, task: str, tokens: int, now: float) -> int:
        """Tokens that may wait, where so many more of this task are among them."""
        self._check_running()
        scheduler, limit = self._scheduler, self._pace.queue_tokens(now)
        if scheduler.has_credit(task, tokens) and scheduler.tokens_within + tokens <= limit:
            limit = self._pace.queue_tokens(now, within_share=True)  # what others have waiting runs after it
        if missing := self._scheduler.missing(task, tokens, limit):
            self._pace.refused(now)
            raise Overloaded(
                f"{scheduler.queued_tokens} tokens are waiting; there is room for {limit}, and each task has its "
                "part of it",
                self._pace.seconds(missing),
            )
        return limit

    def _check_running(self) -> None:
        if self._ended:
            raise EngineFault("the engine has ended; the service must be started again")
        if self._stopping:
            raise Stopping("the service is stopping and takes no new work")

    def _refuse_what_comes_too_late(self, job: Job, tokens: int, now: float) -> None:
        left, alone = job.deadline - now, self._pace.seconds(tokens)
        if left <= 0:
            raise DeadlineExceeded("its time was over before it could wait")
        if left <= alone:
            raise DeadlineExceeded(f"{tokens} tokens take about {alone:.2f} s, and {left:.2f} s are left")
        ahead = self._pace.seconds(self._scheduler.ahead(job.task))
        if left <= ahead + alone:
            raise Overloaded(f"its turn comes in about {ahead:.2f} s, and {left:.2f} s are left", ahead)

    def _withdraw(self, job: Job | None) -> None:
        """However a job ends, what is left of it is not run."""
        if job is not None:
            with self._ready:
                self._scheduler.withdraw(job)
                self._spare.withdraw(job)

    def _loop(self) -> None:
        try:
            give_way()
            while self._step():
                pass
        finally:
            # Whatever ends this thread, nobody is left waiting for it.
            with self._ready:
                self._ended = not self._stopping
                self._stopping = True
            self._fail_all(EngineFault("the engine has ended"))

    def _step(self) -> bool:
        """One batch; False when there is none to come. Idle, the thread holds no row, so no adapter either."""
        picks = self._wait()
        if picks:
            self._run(picks)
        return bool(picks)

    def _wait(self) -> list[Pick[Job]]:
        """The next batch; empty once the service stops and nothing waits."""
        with self._ready:
            self._running, self._batch_started = (), None
            rested = False
            while True:
                now = self._clock()
                for job in self._scheduler.expire(now):
                    job.fail(DeadlineExceeded("its time was over while it waited"))
                if picks := self._next(self._pace.budget(now), rested or self._stopping):
                    self._running, self._batch_started, self._full = picks, now, self._scheduler.full
                    for pick in picks:
                        pick.job.course.begun = True
                    return picks
                if self._stopping:
                    return []
                # What is spare runs alone only when nothing else came for as long as a batch takes: so a request that
                # comes a moment later seldom finds the engine taken.
                rested = not self._ready.wait(self._batch_seconds if self._spare else None)

    def _next(self, budget: int, rested: bool) -> list[Pick[Job]]:
        batch = self._scheduler.next_batch(budget)
        return [*batch, *self._spare.beside(batch, budget)] if batch or rested else []

    def _run(self, picks: Sequence[Pick[Job]]) -> None:
        """A batch; in halves where memory did not suffice for it, so that only a row that is too large alone fails."""
        if self._ran(picks):
            return
        log.warning("the memory does not suffice for a batch of %d rows; it is run in halves", len(picks))
        middle = len(picks) // 2
        for half in (picks[:middle], picks[middle:]):
            if left := [pick for pick in half if not pick.job.future.done()]:  # or it has failed meanwhile
                self._run(left)

    def _ran(self, picks: Sequence[Pick[Job]]) -> bool:
        """Answers or fails the rows of a batch; False where it is to be run in parts."""
        started = self._clock()
        rows = [pick.job.rows[pick.row] for pick in picks]
        try:
            try:
                outputs = self._engine.run(rows)
            except Exception as error:
                # What is apart is proved in one batch, or not.
                if len(picks) > 1 and not picks[0].job.apart and ran_out_of_memory(error):
                    return False  # which lets go of what the failed batch held
                raise
            batch = self._observed(rows, started)
            self._batch_seconds = batch.ended - batch.started
            with self._ready:
                self._pace.ran(batch.tokens, self._batch_seconds, self._full and picks is self._running)
            courses = [job.course for job in dict.fromkeys(pick.job for pick in picks)]
            if self._watch is not None:
                self._watch(batch, courses)
            for course in courses:
                course.batches.append(batch)
            for pick, output in zip(picks, outputs, strict=True):
                pick.job.fill(pick.row, output)
        except Exception as error:  # whatever it is, it ends these jobs and no others
            log.exception("the engine failed on a batch of %d rows", len(rows))
            self._metrics.engine_faults.inc()
            for pick in picks:
                pick.job.fail(
                    EngineFault(f"the engine failed on the batch that held this request: {type(error).__name__}")
                )
        return True

    def _observed(self, rows: Sequence[Row], started: float) -> Batch:
        batch = Batch(
            started,
            self._clock(),
            rows=len(rows),
            tokens=sum(len(row.tokens) for row in rows),
            adapters=len({row.resident for row in rows}),
        )
        self._metrics.batch_seconds.observe(batch.ended - batch.started)
        self._metrics.batch_rows.observe(batch.rows)
        self._metrics.batch_tokens.observe(batch.tokens)
        self._metrics.batch_tasks.observe(batch.adapters)
        self._metrics.tokens.inc(batch.tokens)
        for (kind, method), count in Counter(map(_sort, rows)).items():
            self._metrics.rows.labels(kind, method).inc(count)
        return batch

    def _fail_all(self, error: Exception) -> None:
        """What waits, and what is in a batch that will never be answered."""
        with self._ready:
            left = [*self._scheduler.drain(), *self._spare.drain(), *(pick.job for pick in self._running)]
        for job in left:
            job.fail(error)


def give_way() -> None:
    """Lets the event loop go before the engine's threads: this one, and those that it will start.

    On Linux a thread has a niceness of its own. The engine takes all processors that it gets; where the event loop
    had to wait for a slice of one, a refusal took as long as an answer. Since 6.12 it has the length of its slices as
    well: a thread that wakes up, and has shorter ones, comes at once.

    A courtesy: where the system refuses it, all runs without.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            nice = min(19, os.getpriority(os.PRIO_PROCESS, os.getpid()) + NICENESS)  # whatever the process began with
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
            if number := SET_ATTRIBUTES.get(platform.machine()):
                # linux/sched/types.h: sched_attr. Kernels that do not know the flag have no slices to set either.
                asked = struct.pack("IIQiIQQQ", 48, 0, KEEP_POLICY, nice, 0, SLICE, 0, 0)
                CDLL(None).syscall(number, 0, asked, 0)


def _sort(row: Row) -> tuple[str, str]:
    """A row's kind and method."""
    manifest = row.resident.manifest
    return manifest.kind, manifest.method.name
