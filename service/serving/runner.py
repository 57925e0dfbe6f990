"""The one engine thread: takes what waits the moment the engine is free, and sees that every job ends."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from time import monotonic

from service.engine.engine import Engine, Row
from service.errors import EngineFault, Stopping
from service.metrics import Metrics
from service.serving.jobs import Batch, Course, Job
from service.serving.scheduler import Pick, Scheduler
from service.serving.spare import Spare
from service.tasks import Floats

log = logging.getLogger(__name__)

Watch = Callable[[Batch, Sequence[Course]], None]


class Runner:
    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler[Job],
        spare: Spare[Job],
        metrics: Metrics,
        clock: Callable[[], float] = monotonic,
        watch: Watch | None = None,
    ) -> None:
        """`watch` is called for each batch that has run, before its jobs hear of it."""
        self._engine = engine
        self._scheduler = scheduler
        self._spare = spare
        self._metrics = metrics
        self._clock = clock
        self._watch = watch
        self._ready = threading.Condition()  # guards the scheduler and the four fields below
        self._stopping = self._ended = False
        self._running: Sequence[Pick[Job]] = ()
        self._batch_started: float | None = None
        self._batch_seconds = 0.0  # of the last batch; the engine thread's own
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        metrics.queued_tokens.set_function(lambda: scheduler.queued_tokens)
        metrics.queued_jobs.set_function(lambda: len(scheduler))
        metrics.engine_up.set_function(self._thread.is_alive)
        metrics.running_seconds.set_function(lambda: self.busy_seconds() or 0.0)

    def start(self) -> None:
        self._thread.start()

    def submit(
        self, rows: Sequence[Row], apart: bool = False, spare: bool = False, course: Course | None = None
    ) -> Future[list[Floats]]:
        """Queues one request's rows; the future brings their raw outputs, in order.

        Args:
            apart: in batches of their own.
            spare: nobody waits for them, and they make way (`Spare`).
            course: is told when they wait and run.

        Raises:
            Overloaded: the queue is full, or the service is stopping.
        """
        job = Job(rows, self._clock(), apart, course)
        with self._ready:
            if self._ended:
                raise EngineFault("the engine has ended; the service must be started again")
            if self._stopping:
                raise Stopping("the service is stopping and takes no new work")
            if spare:
                self._spare.admit(job, self._scheduler.queued_tokens)
            else:
                self._scheduler.admit(job)
            self._ready.notify()
        return job.future

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

    def _loop(self) -> None:
        try:
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
                if picks := self._next(rested or self._stopping):
                    self._running, self._batch_started = picks, self._clock()
                    return picks
                if self._stopping:
                    return []
                # What is spare runs alone only when nothing else came for as long as a batch takes: so a request that
                # comes a moment later seldom finds the engine taken.
                rested = not self._ready.wait(self._batch_seconds if self._spare else None)

    def _next(self, rested: bool) -> list[Pick[Job]]:
        batch = self._scheduler.next_batch()
        return [*batch, *self._spare.beside(batch)] if batch or rested else []

    def _run(self, picks: Sequence[Pick[Job]]) -> None:
        started = self._clock()
        rows = [pick.job.rows[pick.row] for pick in picks]
        try:
            outputs = self._engine.run(rows)
            batch = self._observed(rows, started)
            self._batch_seconds = batch.ended - batch.started
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


def _sort(row: Row) -> tuple[str, str]:
    """A row's kind and method."""
    manifest = row.resident.manifest
    return manifest.kind, manifest.method.name
