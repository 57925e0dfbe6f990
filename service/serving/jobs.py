"""A job: one request's rows on their way through the engine, and the promise of an answer."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf

from service.engine.engine import Row
from service.tasks import Floats


@dataclass(eq=False)
class Batch:
    """One pass of the engine, shared by all whose rows were in it. Times are the runner's clock, seconds."""

    started: float
    ended: float
    rows: int
    tokens: int
    adapters: int
    context: object = None  # of who watches batches


@dataclass(eq=False)
class Course:
    """When a job waited and ran: filled by the runner, read by who submitted it."""

    admitted: float = 0.0
    context: object = None  # of who submitted the job, for who watches batches
    begun: bool = False  # whether the engine has taken any of its rows, a batch that failed included
    batches: list[Batch] = field(default_factory=list)  # that held rows of it, in order

    @property
    def queue_seconds(self) -> float:
        """From admission to the first batch."""
        return self.batches[0].started - self.admitted if self.batches else 0.0

    @property
    def engine_seconds(self) -> float:
        """In batches."""
        return sum(batch.ended - batch.started for batch in self.batches)


class Job:
    """Filled row by row by the runner, possibly over several batches; ends once, with outputs or an error."""

    def __init__(
        self,
        rows: Sequence[Row],
        task: str,
        admitted: float,
        deadline: float = inf,
        apart: bool = False,
        course: Course | None = None,
    ) -> None:
        self.rows = rows
        self.task = task  # in whose line it waits
        self.course = course or Course()
        self.course.admitted = admitted
        self.deadline = deadline  # the runner's clock, seconds; nothing of it runs after that
        self.apart = apart  # shares no batch: what nobody has proved yet may fail, and fails nobody else
        self.sizes = [len(row.tokens) for row in rows]  # tokens a row
        self.future: Future[list[Floats]] = Future()
        self._outputs: dict[int, Floats] = {}
        if not rows:
            self.future.set_result([])

    def fill(self, index: int, output: Floats) -> None:
        self._outputs[index] = output
        if len(self._outputs) == len(self.rows):
            self._end(lambda: self.future.set_result([self._outputs[i] for i in range(len(self.rows))]))

    def fail(self, error: Exception) -> None:
        self._end(lambda: self.future.set_exception(error))

    def _end(self, settle: Callable[[], None]) -> None:
        with suppress(InvalidStateError):  # the caller has cancelled, or an earlier batch failed the job
            settle()
