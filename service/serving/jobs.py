"""A job: one request's rows on their way through the engine, and the promise of an answer."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from math import inf

from service.engine.engine import Row
from service.tasks import Floats


class Job:
    """Filled row by row by the runner, possibly over several batches; ends once, with outputs or an error."""

    def __init__(
        self, rows: Sequence[Row], task: str, admitted: float, deadline: float = inf, apart: bool = False
    ) -> None:
        self.rows = rows
        self.task = task  # in whose line it waits
        self.apart = apart  # shares no batch: what nobody has proved yet may fail, and fails nobody else
        self.sizes = [len(row.tokens) for row in rows]  # tokens a row
        self.admitted = admitted  # the runner's clock, seconds
        self.deadline = deadline  # the same clock; nothing of it runs after that
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
