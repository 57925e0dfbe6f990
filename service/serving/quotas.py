"""Tokens a second that a task may have, however idle the engine is. Pure: told the time."""

from collections.abc import Mapping

from service.errors import OverQuota

BURST_SECONDS = 1.0  # a task that asked for nothing has saved up so much of its quota


class Quotas:
    """A bucket of tokens for each task that has a quota (a token bucket that may be overdrawn).

    A request is taken while there is anything in the bucket, whatever its size, and the next one when it is paid off:
    so none is refused for ever, and over time a task gets no more than its quota.
    """

    def __init__(self, quotas: Mapping[str, float]) -> None:
        """`quotas`: tokens a second by task; those that are not named have none."""
        self._quotas = quotas
        self._owing = dict.fromkeys(quotas, (0.0, 0.0))  # tokens, and the time at which they were owed

    def check(self, task: str, now: float) -> None:
        """
        Raises:
            OverQuota: the task has had more than its quota.
        """
        if task in self._quotas and (owing := self._owes(task, now)) > 0:
            quota = self._quotas[task]
            raise OverQuota(f"task {task} has had its {quota:g} tokens a second", retry_after=owing / quota)

    def charge(self, task: str, tokens: int, now: float) -> None:
        """The task has been given so many, or has given back as many as are below 0."""
        if task in self._quotas:
            self._owing[task] = (self._owes(task, now) + tokens, now)

    def _owes(self, task: str, now: float) -> float:
        """Tokens; negative where some are saved up."""
        quota = self._quotas[task]
        owing, since = self._owing[task]
        return max(owing - quota * (now - since), -BURST_SECONDS * quota)
