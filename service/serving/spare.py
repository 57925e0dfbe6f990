"""Work that nobody waits for: it goes along with what others run, and makes way. Pure, as the scheduler is."""

from collections import deque
from collections.abc import Sequence
from typing import Generic

from service.errors import Overloaded
from service.serving.scheduler import J, Pick

PART = 16  # of a batch: who comes while it runs waits little


class Spare(Generic[J]):
    """First come, first served, by the row."""

    def __init__(self) -> None:
        self._rows: deque[Pick[J]] = deque()
        self._tokens = 0

    def __bool__(self) -> bool:
        """Whether any waits."""
        return bool(self._rows)

    def admit(self, job: J, queued_tokens: int, budget: int) -> None:
        """Queues a job if nothing waits, or all that does fits into a batch with it.

        Args:
            queued_tokens: what others wait for.
            budget: tokens of a batch.

        Raises:
            Overloaded: it is to be dropped.
        """
        tokens, waiting = sum(job.sizes), self._tokens + queued_tokens
        if waiting and waiting + tokens > budget:
            raise Overloaded(f"{waiting} tokens are waiting, and nobody waits for {tokens} more")
        self._rows.extend(Pick(job, row) for row in range(len(job.sizes)))
        self._tokens += tokens

    def beside(self, batch: Sequence[Pick[J]], budget: int) -> list[Pick[J]]:
        """Takes out the rows that go along with a batch; of one that is empty, those that run alone.

        They stay within the batch's budget and a part of it, unless a single row that runs alone is larger.
        """
        found: list[Pick[J]] = []
        if batch and batch[0].job.apart:
            return found
        room = min(max(1, budget // PART), budget - sum(map(_tokens, batch)))
        while self._rows:
            size = _tokens(self._rows[0])
            if size > room and (batch or found):
                break
            found.append(self._rows.popleft())
            room -= size
            self._tokens -= size
        return found

    def withdraw(self, job: J) -> None:
        """Takes out what is left of a job, if it is here."""
        if any(pick.job is job for pick in self._rows):
            self._rows = deque(pick for pick in self._rows if pick.job is not job)
            self._tokens = sum(map(_tokens, self._rows))

    def drain(self) -> list[J]:
        """Empties the queue; the caller ends these jobs."""
        jobs = list(dict.fromkeys(pick.job for pick in self._rows))
        self._rows.clear()
        self._tokens = 0
        return jobs


def _tokens(pick: Pick[J]) -> int:
    return pick.job.sizes[pick.row]
