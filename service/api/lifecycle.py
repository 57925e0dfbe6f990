"""Whether the service takes new work, and whether any is under way."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Lifecycle:
    """Belongs to the event loop's thread; a signal's handler may set `stopping`."""

    def __init__(self) -> None:
        self.stopping = False  # for good
        self.requests = 0  # under way
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request is under way, from its arrival until its answer is written."""
        self.requests += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.requests -= 1
            if not self.requests:
                self._idle.set()

    async def idle(self) -> None:
        """Waits until no request is under way."""
        await self._idle.wait()
