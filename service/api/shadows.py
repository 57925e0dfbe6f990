"""Work that nobody waits for: what candidates answer in the shadow."""

import asyncio
from collections.abc import Coroutine
from typing import Any

MOST = 256  # under way at once


class Shadows:
    """Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def full(self) -> bool:
        return len(self._under_way) >= MOST

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs it beside whoever calls, from the next turn of the event loop on."""
        task = asyncio.create_task(work)
        self._under_way.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._under_way.discard)

    async def end(self) -> None:
        """Gives up what is under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
