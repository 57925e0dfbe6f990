"""How fast the engine is, and so how many tokens may wait and how many go into a batch. Pure: told the time."""

from collections import deque
from math import inf
from statistics import median
from typing import NamedTuple

BATCHES = 31  # the last ones that count; of an odd number the median is one of them
SMALLEST = 64  # tokens in a batch that is cut to save time; smaller ones waste the engine
CALM_SECONDS = 1.0  # without a refusal, after which a long queue is allowed again


class Limits(NamedTuple):
    """As the settings of these names have them."""

    batch_tokens: int
    batch_seconds: float = inf
    queue_tokens: int = 2**31
    queue_seconds: float = inf
    short_queue_seconds: float = inf


class Pace:
    """A queue is for bursts. Once work has to be refused, a long one makes everybody wait and serves nobody more.

    So it is cut to `short_queue_seconds` as long as there are refusals, and may hold `queue_seconds` at other times;
    and at all times for who asks for less than its share, since it is not among those who make the queue.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._usual, self._full = _Rate(), _Rate()  # of batches a quarter as large as might be, or more; of full ones
        self._refused = -inf

    @property
    def batch_tokens(self) -> int:
        """Tokens in a batch at most."""
        limits, usual = self._limits, self._usual.median
        # Twice as many tokens take no less time: so full batches are at most twice as fast by the token as halves, and
        # what was learned from them long ago does not stand against that.
        rate = min(max(self._full.median, usual), 2 * usual) if self._full.median < inf else usual
        return int(min(limits.batch_tokens, max(SMALLEST, rate * limits.batch_seconds)))

    def budget(self, now: float) -> int:
        """Tokens in the next batch at most: half as many while there are refusals, so what waits waits for less."""
        whole = self.batch_tokens
        return max(min(SMALLEST, whole), whole // 2) if self._is_short(now) else whole

    def queue_tokens(self, now: float, within_share: bool = False) -> int:
        """Tokens that may wait; two batches at least, so that the engine never lacks work.

        Args:
            within_share: for the job of a task that asks for no more.
        """
        limits = self._limits
        long = within_share or not self._is_short(now)
        seconds = limits.queue_seconds if long else min(limits.queue_seconds, limits.short_queue_seconds)
        return int(min(limits.queue_tokens, max(2 * self.budget(now), self._usual.median * seconds)))

    def promised(self, now: float) -> float:
        """Tokens after which what is taken now is overdue, and goes before all but what is so for longer.

        What is taken while others are refused has its answer soon: it would better be refused than wait.
        """
        return self.queue_tokens(now) if self._is_short(now) else inf

    def seconds(self, tokens: int) -> float:
        """How long so many tokens take; 0 while nothing is known."""
        return tokens / self._usual.median

    def ran(self, tokens: int, seconds: float, full: bool) -> None:
        """A batch has run. A small one says little of what the engine can do, and does not count.

        How large a batch may be is learned from full ones, once there were any. Others are slower by the token: were
        it learned from them as well, batches would become smaller, and the others slower still.

        Args:
            full: something that waited did not fit into it.
        """
        if seconds > 0 and 4 * tokens >= self.batch_tokens:
            self._usual.add(tokens / seconds)
            if full:
                self._full.add(tokens / seconds)

    def refused(self, now: float) -> None:
        """Something was refused for want of room."""
        self._refused = now

    def _is_short(self, now: float) -> bool:
        return now - self._refused < CALM_SECONDS


class _Rate:
    """Tokens a second, of the last batches."""

    def __init__(self) -> None:
        self._each: deque[float] = deque(maxlen=BATCHES)
        self.median = inf  # and no mean: a machine that stood still for a moment is not slow

    def add(self, rate: float) -> None:
        self._each.append(rate)
        self.median = median(self._each)
