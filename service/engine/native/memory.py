"""Memory for adapters."""

from collections import deque
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap

SPARE = 16


class Blocks:
    """Blocks of memory from the system itself: among what lives shortly, large ones would leave holes behind.

    A few that were let go are kept for the next of their size, for the first touch of a fresh page costs more than to
    fill it. No lock: a block may be given back by whatever thread frees an object, at any point in it.
    """

    def __init__(self) -> None:
        self._spare: deque[mmap] = deque(maxlen=SPARE)

    def take(self, size: int) -> mmap:
        """A block of `size` bytes, at least one, that hold anything."""
        try:
            block = self._spare.pop()
        except IndexError:
            block = None
        return block if block is not None and len(block) == size else mmap(-1, size, MAP_PRIVATE | MAP_ANONYMOUS)

    def give_back(self, block: mmap) -> None:
        self._spare.append(block)
