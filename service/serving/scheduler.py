"""Which rows run next. Pure: lines of jobs, weights and token budgets; no torch, no threads, no clock."""

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from math import ceil, inf
from typing import Generic, NamedTuple, Protocol, TypeVar

SEVERAL = "+"  # the line of requests that name several tasks
UNPROVED = "?"  # the line of what has not been proved yet, and goes before nobody
UNPROVED_WEIGHT = 0.25  # a proof can wait better than requests can
CREDIT = 2  # batches that a task saves up: some requests' worth
ABOUT = 8  # batches for which tasks with credit are expected again
MANY = 1024  # lines
PATIENCE = 5  # how many times what waits may run, at most, before a job is overdue


class Waiting(Protocol):
    """A job as the scheduler sees it."""

    @property
    def task(self) -> str:
        """In whose line it waits."""

    @property
    def sizes(self) -> Sequence[int]:
        """Tokens of each row; at least one row, each of at least one token."""

    @property
    def deadline(self) -> float:
        """When it is too late to run; any clock, as long as `expire` is told the same one's time."""

    @property
    def apart(self) -> bool:
        """Whether its rows share no batch with other jobs'."""


J = TypeVar("J", bound=Waiting)


class Pick(NamedTuple, Generic[J]):
    """One row goes into the batch."""

    job: J
    row: int  # its number in the job


class _Line(Generic[J]):
    """What waits of one task."""

    def __init__(self, weight: float, saves: bool) -> None:
        self.weight = weight
        self.saves = saves  # whether it keeps a credit of what it did not use
        self.entries: OrderedDict[J, _Entry[J]] = OrderedDict()  # in the order of their turns
        self.tokens = 0
        self.counted = 0
        self.turn = -inf  # when it is due, in tokens by weight; the line with the earliest is next
        self.due = False  # whether it stands among the turns
        self.promised: deque[int] = deque()  # numbers of jobs, the oldest first; behind it, some may have left


class _Entry(Generic[J]):
    def __init__(self, job: J, line: _Line[J], most: int, within: bool, number: int) -> None:
        self.job = job
        self.line = line
        self.within = within  # whether its task had credit for it
        self.number = number
        self.next = 0  # the first row that has not run
        self.left = sum(job.sizes)  # tokens from there on
        self.counted = min(self.left, most)


class Scheduler(Generic[J]):
    """Tasks share the engine by weight, whatever each of them asks for; jobs of one task take turns.

    Start-time fair queueing (Goyal, Vin and Cheng 1996): a turn moves the line's next one by the tokens it took over
    the task's weight, and the earliest is served. A task that uses less than its share saves up a little credit: so it
    comes before who uses more, whose requests would else run beside its own and take half of its time.
    Within a line it is first come, first served, but a turn is a quarter of a batch at most, and who still has rows
    after it goes to the back. So a request of one row never waits for the whole of a request of a thousand, nor for
    all that another task has sent. A job that fits, and is within its task's credit, goes as a whole: of two such that
    wait, both would else end with the second.
    By turns alone a job waits for as long as others come that have credit. So the only job of its task is overdue when
    twice as many tokens have run as waited when it came, the second when three times as many have, and so on up to a
    few times; though not before its task's share has come to it; or when it was promised to be. Of what is overdue goes
    first what was due first, and of its task the oldest. Half of the engine stays with the turns, for tasks that seldom
    ask.
    """

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        credit: float = 0,
        smallest: int = 1,
        patience: float = inf,
    ) -> None:
        """
        Args:
            weights: by task; those that are not named have 1.
            credit: how much a task of weight 1 saves up at most, in batches.
            smallest: tokens; no batch is made smaller to save others time.
            patience: how many times what waits, once a job has come, runs at most until it is overdue.
        """
        self._smallest, self._patience = smallest, patience
        self._weights = weights or {}
        self._lines: dict[str, _Line[J]] = {}
        self._entries: dict[J, _Entry[J]] = {}
        self._turns: list[tuple[float, int, _Line[J]]] = []  # a heap; lines that were emptied may still be in it
        self._number = count()  # of equal turns the older is first
        self._promises: list[tuple[float, int]] = []  # a heap: tokens taken when a job is overdue, and its number
        self._promised: dict[int, _Entry[J]] = {}  # by number; what has left is in the heap only
        self._taken = 0  # tokens, since the beginning
        self._credited = -inf  # how many had been taken, when a line with credit for a turn was served last
        self.full = False  # whether something that waits did not fit into the last batch
        self._ahead = 0  # how far promises are ahead of turns, in tokens
        self._turn = 0.0  # the latest that was served; who is due at it has no credit
        self._credits = credit
        self._credit = 0.0  # in tokens by weight
        self._many = MANY  # lines, at which those that tell nothing are let go
        self._counted = 0
        self._active_weight = 0.0  # of the tasks that have something waiting
        self._soonest = inf  # no deadline is earlier
        self.queued_tokens = 0
        self.tokens_within = 0  # of those, what came of tasks that had credit for it

    def __len__(self) -> int:
        """Jobs with rows still to run."""
        return len(self._entries)

    def missing(self, task: str, tokens: int, limit: int) -> int:
        """How many tokens must leave the queue before it takes a job of so many; 0: it takes it now.

        A task that holds as much of the limit as is still free, times its weight, takes no more of it (the dynamic
        threshold of Choudhury and Hahne 1998): a task alone gets half, n tasks get n of n + 1 parts, and who comes
        next finds room. The last job that a task gets in may go beyond. A job counts with a third of the limit at
        most, so nothing that the service accepts in size is refused for ever, and a large job leaves room for small
        ones.
        """
        waiting = self.queued_tokens
        if not waiting:
            return 0
        free = limit - self._counted
        beyond = min(tokens, _most_counted(limit)) - free
        line = self._lines.get(task)
        if line is not None and line.counted:
            beyond = max(beyond, ceil(line.counted / line.weight) - free + 1)
        return min(waiting, beyond + waiting - self._counted) if beyond > 0 else 0

    def ahead(self, task: str) -> int:
        """About how many tokens will run before the next job of this task, if nobody else comes."""
        line = self._lines.get(task)
        if line is None or not line.tokens:
            return 0
        return min(self.queued_tokens, ceil(line.tokens * self._active_weight / line.weight))

    def has_credit(self, task: str, tokens: int) -> bool:
        """Whether a job of so many tokens, after what waits of its task, is within what the task has saved up."""
        line = self._lines.get(task) or self._line(task)
        return self._due(line) + (line.tokens + tokens) / line.weight <= self._turn

    def admit(self, job: J, limit: int, promised: float = inf) -> None:
        """Queues a job for which nothing is `missing`.

        Args:
            promised: it is overdue when so many tokens have run, at the latest; but not if it has more itself.
        """
        if not self.queued_tokens:
            self._active_weight, self._ahead = 0.0, 0  # sums of fractions drift
        tokens, most = sum(job.sizes), _most_counted(limit)
        within = self.has_credit(job.task, tokens)
        line = self._joined(job.task)
        fair = (line.tokens + tokens) * self._active_weight / line.weight
        times = min(self._patience, len(line.entries) + 2) if self._patience < inf else inf
        late = max(fair, times * (self.queued_tokens + tokens))
        wait = min(late, promised if tokens <= promised else inf)
        entry = _Entry(job, line, most, within, next(self._number))
        if wait < inf and job.task != UNPROVED:
            self._promised[entry.number] = entry
            line.promised.append(entry.number)
            heappush(self._promises, (self._taken + wait, entry.number))
        self._entries[job] = line.entries[job] = entry
        self._soonest = min(self._soonest, job.deadline)
        self._count(entry, entry.left, entry.counted)

    def next_batch(self, budget: int) -> list[Pick[J]]:
        """Takes the rows to run now out of the queue; empty only when nothing waits.

        The batch stays within the budget of tokens, unless a single row is larger than it. Where it is for tasks with
        credit, others fill it only to about the half: who asks for little does not wait for who asks for much. While
        such tasks are about, a single other one that waits is served by such halves too, for who comes next.
        """
        batch: list[Pick[J]] = []
        most, self._credit = max(1, budget // 4), self._credits * budget
        room, now, early, self.full = budget, self._turn, False, False
        half, alone = max(self._smallest, budget / 2), self._waits_alone(budget)
        while True:
            promised = self._overdue() if 2 * self._ahead < budget else None
            entry = promised or self._earliest()
            if entry is None or (batch and (entry.job.apart or batch[0].job.apart)):
                break
            line = entry.line
            makes_way = alone or (early and line.turn >= now and self._overdue() is None)
            if makes_way and half <= budget - room < budget:
                break
            early |= line.turn < now
            if not promised and line.turn + most / line.weight <= now:
                self._credited = self._taken
            whole = entry.job.apart or (entry.left <= room and line.turn + entry.left / line.weight <= now)
            taken = self._take_turn(entry, room, room if whole else most, batch)
            if not taken:
                self.full = True
                break
            room -= taken
            self._taken += taken
            self._ahead = self._ahead + taken if promised else max(0, self._ahead - taken)
            self._turn = max(self._turn, line.turn)
            line.turn = max(line.turn, self._turn - self._credit) + taken / line.weight  # however far a promise went
        return batch

    def withdraw(self, job: J) -> None:
        """Takes out what is left of a job, if anything is; its place is free at once."""
        entry = self._entries.pop(job, None)
        if entry is not None:
            self._leave(entry)
            self._count(entry, -entry.left, -entry.counted)

    def expire(self, now: float) -> list[J]:
        """Takes out the jobs whose deadline has passed; the caller ends them."""
        if now < self._soonest:
            return []
        late = [job for job in self._entries if job.deadline <= now]
        for job in late:
            self.withdraw(job)
        self._soonest = min((job.deadline for job in self._entries), default=inf)
        return late

    def drain(self) -> list[J]:
        """Empties the queue; the caller ends these jobs."""
        jobs = list(self._entries)
        for job in jobs:
            self.withdraw(job)
        return jobs

    def _joined(self, task: str) -> _Line[J]:
        """The task's line, with a turn to come."""
        line = self._lines.get(task)
        if line is None:
            self._forget()
            line = self._lines[task] = self._line(task)
        if not line.entries:
            self._active_weight += line.weight
            line.turn = self._due(line)
        if not line.due:
            line.due = True
            heappush(self._turns, (line.turn, next(self._number), line))
        return line

    def _line(self, task: str) -> _Line[J]:
        """A new one."""
        return _Line(self._weights.get(task, 1.0), saves=task != UNPROVED)

    def _due(self, line: _Line[J]) -> float:
        """When the line's next turn is, with all its credit."""
        return max(line.turn, self._turn - (self._credit if line.saves else 0.0))

    def _waits_alone(self, budget: int) -> bool:
        """Whether a single task waits, without credit, though some with credit were served a moment ago."""
        entry = self._earliest()
        if entry is None or entry.job.apart or entry.line.turn < self._turn:
            return False
        return entry.line.tokens == self.queued_tokens and self._taken - self._credited < ABOUT * budget

    def _overdue(self) -> _Entry[J] | None:
        """What has not run by when it was promised to, or the oldest of the same task."""
        while self._promises and self._promises[0][0] <= self._taken:
            entry = self._promised.get(self._promises[0][1])
            if entry is not None:
                return self._promised[entry.line.promised[0]]
            heappop(self._promises)
        return None

    def _earliest(self) -> _Entry[J] | None:
        """Whose turn it is."""
        while self._turns:
            turn, _, line = self._turns[0]
            if not line.entries:
                heappop(self._turns)
                line.due = False
            elif turn < line.turn:  # it has moved on
                heapreplace(self._turns, (line.turn, next(self._number), line))
            else:
                return next(iter(line.entries.values()))
        return None

    def _forget(self) -> None:
        """Lets lines go that a new one would be equal to, now and then."""
        if len(self._lines) >= self._many:
            lines = self._lines.items()
            self._lines = {task: line for task, line in lines if line.entries or line.turn > self._turn - self._credit}
            self._many = max(MANY, 2 * len(self._lines))

    def _take_turn(self, entry: _Entry[J], room: int, most: int, batch: list[Pick[J]]) -> int:
        """Moves rows of one job into the batch, up to a turn; returns their tokens."""
        sizes, taken = entry.job.sizes, 0
        while entry.next < len(sizes):
            size = sizes[entry.next]
            if taken + size > room and batch:
                break
            if taken and taken + size > most:
                break
            batch.append(Pick(entry.job, entry.next))
            entry.next += 1
            taken += size
        if taken:
            entry.left -= taken
            counted = min(entry.counted, entry.left)
            if entry.left:
                entry.line.entries.move_to_end(entry.job)
            else:
                del self._entries[entry.job]
                self._leave(entry)
            self._count(entry, -taken, counted - entry.counted)
            entry.counted = counted
        return taken

    def _leave(self, entry: _Entry[J]) -> None:
        del entry.line.entries[entry.job]
        self._promised.pop(entry.number, None)
        while entry.line.promised and entry.line.promised[0] not in self._promised:
            entry.line.promised.popleft()
        if len(self._promises) > 2 * len(self._promised) + MANY:
            self._promises = [promise for promise in self._promises if promise[1] in self._promised]
            heapify(self._promises)
        if not entry.line.entries:
            self._active_weight -= entry.line.weight

    def _count(self, entry: _Entry[J], tokens: int, counted: int) -> None:
        entry.line.tokens += tokens
        entry.line.counted += counted
        self.tokens_within += tokens if entry.within else 0
        self._counted += counted
        self.queued_tokens += tokens


def _most_counted(limit: int) -> int:
    return max(1, limit // 3)
