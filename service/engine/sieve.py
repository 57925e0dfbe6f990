"""Which of the kept things makes room for another: SIEVE (Zhang et al. 2024, NSDI).

A hand goes round from the oldest to the newest, again and again. What was asked for since the hand last came by stays
where it is; the first that was not, goes. New ones stand at the end. Where a few are asked for often and many seldom,
as tasks are, it keeps more of what is asked for again than letting go what was unused longest: a thing asked for once
goes at the hand's next visit, and pushes out nothing that is asked for often.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Sieve(Generic[K]):
    """Not for several threads at once."""

    def __init__(self) -> None:
        # Oldest first; each with whether it was asked for.
        self._passed: OrderedDict[K, bool] = OrderedDict()  # by the hand, on this round
        self._ahead: OrderedDict[K, bool] = OrderedDict()

    def __len__(self) -> int:
        return len(self._passed) + len(self._ahead)

    def add(self, key: K) -> None:
        """A new one; not asked for yet."""
        self.remove(key)
        self._ahead[key] = False

    def ask(self, key: K) -> None:
        """Notes that one was asked for; nothing, if it is not here."""
        for part in (self._ahead, self._passed):
            if key in part:
                part[key] = True

    def remove(self, key: K) -> None:
        self._ahead.pop(key, None)
        self._passed.pop(key, None)

    def pop(self) -> K:
        """Takes out the one that makes room.

        Raises:
            KeyError: there is none.
        """
        while True:
            if not self._ahead:
                self._ahead, self._passed = self._passed, self._ahead
            key, asked = self._ahead.popitem(last=False)
            if not asked:
                return key
            self._passed[key] = False
