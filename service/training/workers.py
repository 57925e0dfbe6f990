"""Threads that share a step: each computes some rows' part alone, in kernels of one thread.

A step is many small kernels, and threads inside each of them would wait for one another at its end.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
MOST = 4  # the rows of a batch do not go further round; beyond that each one's kernels get more threads


class Workers:
    """As many as torch has threads, up to a few; while they are open, torch's own kernels share what is left."""

    def __init__(self) -> None:
        self._threads = torch.get_num_threads()
        self.count = min(self._threads, MOST)
        self._pool = ThreadPoolExecutor(self.count)

    def __enter__(self) -> Self:
        torch.set_num_threads(self._threads // self.count)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        torch.set_num_threads(self._threads)

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """The results in the order of the items. What one raises is raised here."""
        return list(self._pool.map(work, items))
