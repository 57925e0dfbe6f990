"""Callers who hang up, at each stage of a request: what they held is free again, and others are answered.

Over real sockets: who speaks without one cannot hang up on a server.
"""

import json
import logging
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx2
import pytest

from service.api.app import create_app
from service.api.services import Services
from service.engine.base_model import BaseModel
from service.settings import Settings
from tests.api.gate import Gate, wait_until
from tests.api.test_overload import ROUTES
from tests.api.test_server import Live, live
from tests.tiny import make_adapter

TEXT = "x " * 18  # 20 tokens with the special ones
RESET = ("/predict/embedding", True)
every_way = pytest.mark.parametrize(("path", "reset"), [*((path, False) for path in ROUTES), RESET])
either_way = pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])


class Service:
    """A server in a thread of the test, its services, and callers who may hang up on it."""

    def __init__(self, live: Live, services: Services) -> None:
        self.live, self.services = live, services

    def sample(self, name: str, **labels: str) -> float:
        return self.services.metrics.registry.get_sample_value(f"rootstock_{name}", labels) or 0.0

    def predict(self, task: str = "embedding") -> httpx2.Response:
        return self.live.ask("POST", f"/predict/{task}", json={"inputs": TEXT})

    def call(
        self, method: str, path: str, body: bytes, length: int | None = None, buffer: int | None = None
    ) -> "Caller":
        """Sends a request, or the beginning of one whose body shall have more bytes."""
        return Caller(self.live.url, method, path, body, len(body) if length is None else length, buffer)

    def ask_and_wait(self, path: str = "/predict/embedding", text: str = TEXT) -> "Caller":
        return self.call("POST", path, json.dumps({"inputs": text}).encode())

    @property
    def unsent(self) -> int:
        """Bytes of answers that wait for whoever reads them."""
        connections = self.live.server.server_state.connections
        return sum(connection.transport.get_write_buffer_size() for connection in connections)

    def assert_left(self) -> None:
        wait_until(lambda: self.sample("refusals_total", code="caller_left") == 1)

    def assert_nothing_is_held(self) -> None:
        for gauge in ("requests_under_way", "queued_tokens", "queued_jobs", "batch_running_seconds"):
            wait_until(lambda: self.sample(gauge) == 0)  # noqa: B023
        wait_until(lambda: not self.live.server.server_state.tasks)
        assert not self.services.uploads.locked()


class Caller:
    def __init__(self, url: str, method: str, path: str, body: bytes, length: int, buffer: int | None) -> None:
        """`buffer`: bytes of an answer that the machine takes before the caller reads."""
        host, port = url.removeprefix("http://").split(":")
        self._socket = socket.socket()
        if buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._socket.connect((host, int(port)))
        head = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {length}"]
        if method == "POST":
            head.append("Content-Type: application/json")
        self._socket.sendall("\r\n".join([*head, "", ""]).encode() + body)

    def leave(self, reset: bool = False) -> None:
        """Hangs up; with a reset, as a process that is killed while there is something to read."""
        if reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


@contextmanager
def serving(folder: Path, base: BaseModel, **settings: Any) -> Iterator[Service]:
    given = Settings(store=folder / "store", port=0, threads=1, **settings)
    app = create_app(given, base)
    with patch("service.api.server.LINGER_SECONDS", 0.0), live(given, lambda: app) as one:
        wait_until(one.ready)
        service = Service(one, app.state.services)
        service.assert_nothing_is_held()  # by those who asked whether it is ready
        yield service


@pytest.fixture
def service(tmp_path: Path, tiny_base: BaseModel, caplog: pytest.LogCaptureFixture) -> Iterator[Service]:
    with serving(tmp_path, tiny_base, uploads=1) as service:
        yield service
        service.assert_nothing_is_held()
    # Somebody who leaves is nobody's fault: the log has lines of the journal, and neither errors nor stacks.
    logged = [*caplog.get_records("call"), *caplog.get_records("teardown")]
    assert [record for record in logged if record.exc_info or record.levelno >= logging.WARNING] == []


@every_way
def test_who_leaves_while_sending_a_body_is_let_go(service: Service, path: str, reset: bool) -> None:
    body = json.dumps(ROUTES[path]).encode()
    caller = service.call("POST", path, body[:-5], length=len(body))
    wait_until(lambda: service.sample("requests_under_way") == 1)
    caller.leave(reset)
    service.assert_left()
    assert service.predict().status_code == 200


@either_way
def test_who_leaves_while_sending_a_file_gives_its_place_back(
    service: Service, tiny_base: BaseModel, reset: bool
) -> None:
    data = make_adapter(tiny_base)
    caller = service.call("PUT", "/adapters/mood", data[:100], length=len(data))
    wait_until(service.services.uploads.locked)
    assert service.live.ask("PUT", "/adapters/mood", content=data).status_code == 503
    caller.leave(reset)
    wait_until(lambda: not service.services.uploads.locked())
    assert service.live.ask("PUT", "/adapters/mood", content=data).status_code == 201
    assert service.sample("uploads_total", outcome="caller_left") == 1


def test_an_upload_whose_caller_leaves_while_it_is_proved_is_made(
    service: Service, tiny_base: BaseModel, gate: Gate
) -> None:
    caller = service.call("PUT", "/adapters/mood", make_adapter(tiny_base))
    gate.wait_for_a_batch()
    caller.leave()
    gate.open()
    wait_until(lambda: service.predict("mood").status_code == 200)
    assert service.sample("uploads_total", outcome="accepted") == 1


@every_way
def test_who_leaves_while_waiting_gives_its_place_in_the_queue_back_and_is_not_run(
    service: Service, gate: Gate, callers: ThreadPoolExecutor, path: str, reset: bool
) -> None:
    running = callers.submit(service.predict)
    gate.wait_for_a_batch()
    leaving = service.call("POST", path, json.dumps(ROUTES[path]).encode())
    wait_until(lambda: service.sample("queued_jobs") == 1)
    waiting = callers.submit(service.predict)
    wait_until(lambda: service.sample("queued_jobs") == 2)
    leaving.leave(reset)
    wait_until(lambda: service.sample("queued_jobs") == 1)
    wait_until(lambda: service.sample("requests_under_way") == 2)
    assert service.sample("queued_tokens") == 20
    gate.open()
    assert [running.result().status_code, waiting.result().status_code] == [200, 200]
    assert gate.rows == 2
    assert service.sample("requests_total", task="embedding", outcome="caller_left") == 1


@every_way
def test_who_leaves_while_the_engine_works_harms_nobody_in_the_batch(
    service: Service, gate: Gate, callers: ThreadPoolExecutor, path: str, reset: bool
) -> None:
    leaving = service.call("POST", path, json.dumps(ROUTES[path]).encode())
    gate.wait_for_a_batch()
    waiting = callers.submit(service.predict)
    wait_until(lambda: service.sample("queued_jobs") == 1)
    leaving.leave(reset)
    wait_until(lambda: service.sample("requests_under_way") == 1)  # the engine holds its batch still
    gate.open()
    assert waiting.result().status_code == 200
    assert service.sample("engine_faults_total") == 0
    assert service.sample("requests_total", task="embedding", outcome="caller_left") == 1


@either_way
def test_who_leaves_while_the_answer_is_written_takes_it_along(service: Service, reset: bool) -> None:
    inputs = json.dumps({"inputs": ["x"] * 1000}).encode()
    for server in service.live.server.servers:  # whose connections have such a buffer too
        server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
    callers = [service.call("POST", "/predict/embedding", inputs, buffer=2048) for _ in range(4)]
    wait_until(lambda: service.sample("requests_total", task="embedding", outcome="answered") == len(callers))
    assert service.unsent > 0
    for caller in callers:
        caller.leave(reset)
    wait_until(lambda: not service.live.server.server_state.connections)
    assert service.predict().status_code == 200


def test_what_was_never_run_is_charged_to_no_quota(
    tmp_path: Path, tiny_base: BaseModel, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    # A hundredth of a token a second: whatever is charged is not paid off before the test ends.
    with serving(tmp_path, tiny_base, quotas="embedding=0.01") as service:
        gate.open()
        assert service.live.ask("PUT", "/adapters/mood", content=make_adapter(tiny_base)).status_code == 201
        gate.close()
        running = callers.submit(service.predict, "mood")
        gate.wait_for_a_batch()
        caller = service.ask_and_wait()
        wait_until(lambda: service.sample("queued_jobs") == 1)
        caller.leave()
        service.assert_left()
        late = {"json": {"inputs": TEXT}, "headers": {"X-Request-Timeout": "0.05"}}
        assert service.live.ask("POST", "/predict/embedding", **late).status_code == 504
        answered = callers.submit(service.predict)
        wait_until(lambda: service.sample("queued_jobs") == 1)
        gate.open()
        assert [running.result().status_code, answered.result().status_code] == [200, 200]
        assert service.predict().status_code == 429


def test_what_was_run_is_charged_whoever_left(tmp_path: Path, tiny_base: BaseModel, gate: Gate) -> None:
    with serving(tmp_path, tiny_base, quotas="embedding=0.01") as service:
        caller = service.ask_and_wait()
        gate.wait_for_a_batch()
        caller.leave()
        service.assert_left()
        gate.open()
        assert service.predict().status_code == 429
