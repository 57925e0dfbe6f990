"""Which tasks have a label of their own. Pure: no clock, no metrics.

A label costs a series in each family, so only the busiest tasks have one, and the rest share `OTHER`. Those are chosen
anew at the end of a round. Two things keep the series good for Prometheus, in which a counter never falls:

- An event is counted under one label, and stays there. A task that loses its label leaves its series behind, which end;
  one that gets a label begins at nothing. So what Prometheus adds up over all labels is what happened.
- A label is taken away only for a task that was clearly busier, so that tasks which are much alike do not take turns.
"""

from collections import Counter
from typing import NamedTuple

OTHER = "_other"  # no task can be called so
TIMES, MORE = 2, 10  # a task takes another's label with more than twice its uses and ten


class Change(NamedTuple):
    """A task takes over another's label."""

    lost: str
    got: str


class Busiest:
    def __init__(self, most: int) -> None:
        """`most` tasks have a label of their own."""
        self._most = most
        self._own: set[str] = set()
        self._uses: Counter[str] = Counter()  # by task, in this round

    def label(self, task: str) -> str:
        """Counts a use of the task, and says which label it goes under: its own also where there is room for one."""
        self._uses[task] += 1
        if task not in self._own:
            if len(self._own) >= self._most:
                return OTHER
            self._own.add(task)
        return task

    def choose(self) -> list[Change]:
        """Ends a round: what changes, beginning with the next use."""
        idle_first = sorted(self._own, key=lambda task: (self._uses[task], task))
        others = [(task, uses) for task, uses in self._uses.most_common() if task not in self._own]
        changes = [
            Change(lost, got)
            for lost, (got, uses) in zip(idle_first, others, strict=False)
            if uses > TIMES * self._uses[lost] + MORE
        ]
        for lost, got in changes:
            self._own.remove(lost)
            self._own.add(got)
        self._uses.clear()
        return changes
