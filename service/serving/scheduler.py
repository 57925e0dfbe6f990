"""Which rows run next. Pure: queues and a token budget; no torch, no threads, no clock."""

from collections import deque
from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from service.errors import Overloaded


class Waiting(Protocol):
    """A job as the scheduler sees it."""

    @property
    def sizes(self) -> Sequence[int]:
        """Tokens of each row; at least one row, each of at least one token, unless the job has ended."""

    @property
    def apart(self) -> bool:
        """Whether its rows share no batch with other jobs'."""

    def ended(self) -> bool:
        """Whether its remaining rows can be dropped."""


J = TypeVar("J", bound=Waiting)


class Pick(NamedTuple, Generic[J]):
    """One row goes into the batch."""

    job: J
    row: int  # its number in the job


class _Entry(Generic[J]):
    def __init__(self, job: J) -> None:
        self.job = job
        self.next = 0  # the first row that has not run
        self.left = sum(job.sizes)  # tokens from there on


class Scheduler(Generic[J]):
    """First come, first served, but a long job gives way: in each batch every waiting job has its turn.

    A turn is a quarter of the batch; who still has rows after it goes to the back of the queue. So a request of one
    row never waits for the whole of a request of a thousand.
    """

    def __init__(self, batch_tokens: int, queue_tokens: int) -> None:
        self._batch_tokens = batch_tokens
        self._turn_tokens = max(1, batch_tokens // 4)
        self._queue_tokens = queue_tokens
        self._most_held = max(1, queue_tokens // 2)  # by one job
        self._entries: deque[_Entry[J]] = deque()
        self.queued_tokens = 0

    def __len__(self) -> int:
        """Jobs with rows still to run."""
        return len(self._entries)

    def admit(self, job: J) -> None:
        """Queues a job.

        A job counts with half the queue at most, so nothing that the service accepts in size is refused for ever, and
        one large job leaves room for small ones.

        Raises:
            Overloaded: the queue would hold more than its limit.
        """
        entry = _Entry(job)
        if self._too_much(entry):
            self._drop_ended()  # work that was given up turns no other away
        if self._too_much(entry):
            raise Overloaded(
                f"{self.queued_tokens} tokens are waiting; {entry.left} more are too many for the queue's "
                f"{self._queue_tokens}"
            )
        self._entries.append(entry)
        self.queued_tokens += entry.left

    def next_batch(self) -> list[Pick[J]]:
        """Takes the rows to run now out of the queue; empty only when nothing waits.

        The batch stays within the token budget, unless a single row is larger than it. A job that has ended meanwhile
        is dropped when its turn comes.
        """
        batch: list[Pick[J]] = []
        room = self._batch_tokens
        while self._entries:
            entry = self._entries[0]
            if entry.job.ended():
                self.queued_tokens -= self._entries.popleft().left
                continue
            if batch and (entry.job.apart or batch[0].job.apart):
                break
            taken = self._take_turn(entry, room, batch)
            if not taken:
                break
            room -= taken
            self._entries.popleft()
            if entry.left:
                self._entries.append(entry)
        return batch

    def drain(self) -> list[J]:
        """Empties the queue; the caller ends these jobs."""
        jobs = [entry.job for entry in self._entries]
        self._entries.clear()
        self.queued_tokens = 0
        return jobs

    def _take_turn(self, entry: _Entry[J], room: int, batch: list[Pick[J]]) -> int:
        """Moves rows of one job into the batch, up to a turn; returns their tokens."""
        taken = 0
        while entry.next < len(entry.job.sizes):
            size = entry.job.sizes[entry.next]
            if taken + size > room and batch:
                break
            if taken and taken + size > self._turn_tokens:
                break
            batch.append(Pick(entry.job, entry.next))
            entry.next += 1
            taken += size
        entry.left -= taken
        self.queued_tokens -= taken
        return taken

    def _too_much(self, entry: _Entry[J]) -> bool:
        held = sum(min(other.left, self._most_held) for other in self._entries)
        return bool(self._entries) and held + min(entry.left, self._most_held) > self._queue_tokens

    def _drop_ended(self) -> None:
        self._entries = deque(entry for entry in self._entries if not entry.job.ended())
        self.queued_tokens = sum(entry.left for entry in self._entries)
