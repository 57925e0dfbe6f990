"""An engine that can be held and made to fail, and rows whose answers are their numbers."""

from collections.abc import Sequence
from threading import Event, Semaphore

import numpy as np

from service.engine.bank import Resident
from service.engine.engine import Engine, Row
from service.tasks import Floats
from service.tasks.reading import TokenizedRow

TIMEOUT = 30.0  # seconds; only a test that fails waits for it


class FakeEngine(Engine):
    """Answers each row with its number. `faults` are raised by the batch of that place: 0 is the first."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.faults: dict[int, BaseException] = {}
        self.open = Event()
        self.open.set()
        self._entered = Semaphore(0)

    def run(self, rows: Sequence[Row]) -> list[Floats]:
        place = len(self.batches)
        self.batches.append([int(row.tokens.ids[0]) for row in rows])
        self._entered.release()
        assert self.open.wait(TIMEOUT)
        if place in self.faults:
            raise self.faults[place]
        return [np.array([row.tokens.ids[0]], np.float32) for row in rows]

    def wait_for_batch(self) -> None:
        """Until one more batch has begun."""
        assert self._entered.acquire(timeout=TIMEOUT)


def numbered(resident: Resident, number: int, length: int = 4) -> Row:
    ids = np.full(length, number)
    return Row(TokenizedRow(ids, np.zeros_like(ids), truncated=False), resident)
