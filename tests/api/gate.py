"""An engine that waits until it is let go, and callers that a test can make leave."""

import threading
from asyncio import Event
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from time import monotonic, sleep

from starlette.types import Message

from service.engine.engine import Engine, Row
from service.tasks import Floats
from tests.api.harness import Harness

PATIENCE = 30.0  # seconds; only a failing test waits so long


class Gate:
    """Holds the engine before each batch until it is opened."""

    def __init__(self, run: Callable[[Engine, Sequence[Row]], list[Floats]]) -> None:
        self._run = run
        self._entered = threading.Semaphore(0)
        self._opened = threading.Event()
        self.rows = 0  # that have gone through

    def run(self, engine: Engine, rows: Sequence[Row]) -> list[Floats]:
        self._entered.release()
        assert self._opened.wait(PATIENCE)
        self.rows += len(rows)
        return self._run(engine, rows)

    def wait_for_a_batch(self) -> None:
        assert self._entered.acquire(timeout=PATIENCE)

    def open(self) -> None:
        self._opened.set()

    def close(self) -> None:
        """Forgets the batches that went through."""
        self._opened.clear()
        while self._entered.acquire(blocking=False):
            pass


def sample(service: Harness, name: str, **labels: str) -> float:
    return service.services.metrics.registry.get_sample_value(name, labels) or 0.0


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < give_up
        sleep(0.001)


def queued(service: Harness) -> float:
    return sample(service, "rootstock_queued_tokens")


def call_in_the_loop(service: Harness, body: bytes, gone: Event | None = None) -> "Future[None]":
    """A request as a task of the event loop, which a test may cancel as a server does.

    Args:
        gone: when set, the caller closes the connection.
    """
    gone = gone or Event()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict/embedding",
        "headers": [(b"content-type", b"application/json")],
        "query_string": b"",
        "root_path": "",
    }

    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        for message in messages:
            return message
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    async def call() -> None:
        await service.http.app(scope, receive, send)

    assert service.http.portal is not None
    return service.http.portal.start_task_soon(call)
