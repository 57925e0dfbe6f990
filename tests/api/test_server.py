"""The server listens while the service loads, and stops in order."""

import faulthandler
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from service.api.app import create_app
from service.api.problems import SECURITY_HEADERS
from service.api.server import Server
from service.engine.base_model import BaseModel
from service.engine.engine import Engine
from service.errors import BadStore
from service.settings import Settings
from tests.api.harness import assert_problem

PATIENCE = 60.0  # seconds; only a failing test waits so long


def wait_until(condition: Callable[[], Any]) -> None:
    give_up = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < give_up
        sleep(0.005)


class Live:
    """A server in a thread of the test."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._thread = Thread(target=server.run)
        self._thread.start()
        wait_until(lambda: server.started)
        self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    def ask(self, method: str, path: str, **arguments: Any) -> httpx2.Response:
        return httpx2.request(method, self.url + path, timeout=PATIENCE, **arguments)

    def ready(self) -> bool:
        return self.ask("GET", "/readyz").is_success

    def signal(self) -> None:
        self.server.handle_exit(signal.SIGTERM, None)
        faulthandler.cancel_dump_traceback_later()  # it would end the tests

    def ended(self) -> bool:
        self._thread.join(PATIENCE)
        return not self._thread.is_alive()


@contextmanager
def live(settings: Settings, load: Callable[[], FastAPI]) -> Iterator[Live]:
    one = Live(Server(settings, load))
    try:
        yield one
    finally:
        one.server.should_exit = True
        assert one.ended()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(store=tmp_path / "store", port=0, threads=1)


def test_while_it_loads_it_is_alive_and_not_ready(settings: Settings, tiny_base: BaseModel) -> None:
    let_load = Event()

    def load() -> FastAPI:
        assert let_load.wait(PATIENCE)
        return create_app(settings, tiny_base)

    with live(settings, load) as service:
        try:
            assert service.ask("GET", "/healthz").json() == {"status": "alive"}
            for method, path in (("GET", "/readyz"), ("POST", "/predict/mood"), ("GET", "/docs"), ("GET", "/none")):
                answer = service.ask(method, path)
                assert_problem(answer, 503, "starting", "are being loaded")
                assert int(answer.headers["Retry-After"]) >= 1
                assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS
        finally:
            let_load.set()
        wait_until(service.ready)
        assert service.ask("POST", "/predict/embedding", json={"inputs": "good film"}).status_code == 200


def test_a_service_that_cannot_be_loaded_ends_with_the_reason(settings: Settings) -> None:
    failure = BadStore("the store is gone")

    def load() -> FastAPI:
        raise failure

    with live(settings, load) as service:
        assert service.ended()
        assert service.server.failure is failure


@pytest.fixture
def let_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """The engine's batches wait for it."""
    event, run = Event(), Engine.run

    def held(self: Engine, rows: Any) -> Any:
        assert event.wait(PATIENCE)
        return run(self, rows)

    monkeypatch.setattr(Engine, "run", held)
    yield event
    event.set()


@contextmanager
def in_flight(service: Live) -> Iterator["Future[httpx2.Response]"]:
    """A request that the engine has begun with."""
    wait_until(service.ready)
    app = service.server._front.loaded
    assert app is not None
    busy = app.state.services.runner.busy_seconds
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(service.ask, "POST", "/predict/embedding", json={"inputs": "good film"})
        wait_until(busy)
        yield answer


def test_what_is_in_flight_is_answered_and_new_work_is_told_to_go(
    settings: Settings, tiny_base: BaseModel, let_run: Event
) -> None:
    with live(settings, partial(create_app, settings, tiny_base)) as service, in_flight(service) as answer:
        with httpx2.Client(base_url=service.url, timeout=PATIENCE) as before:
            assert before.get("/healthz").status_code == 200  # its connection stays open
            service.signal()
            for ask in (before.post, httpx2.post):
                refused = ask(f"{service.url}/predict/embedding", json={"inputs": "too late"})
                assert_problem(refused, 503, "stopping", "takes no new work")
                assert refused.headers["Connection"] == "close"
                assert int(refused.headers["Retry-After"]) >= 1
        assert_problem(service.ask("GET", "/readyz"), 503, "not_ready", "stopping")
        assert service.ask("GET", "/healthz").status_code == 200
        assert service.ask("GET", "/metrics").status_code == 200
        assert not answer.done()
        let_run.set()
        answered = answer.result(PATIENCE)
        assert answered.status_code == 200
        assert answered.headers["Connection"] == "close"
        assert service.ended()


def test_at_the_limit_what_is_left_is_refused(
    settings: Settings, tiny_base: BaseModel, let_run: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings.model_copy(update={"stop_seconds": 0.05})
    with live(settings, partial(create_app, settings, tiny_base)) as service, in_flight(service) as answer:
        service.signal()
        assert_problem(answer.result(PATIENCE), 503, "stopping", "stopped before this request was answered")
        let_run.set()
        assert service.ended()


def test_a_second_signal_ends_at_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[int] = []
    monkeypatch.setattr("os._exit", ends.append)
    server = Server(settings, FastAPI)
    server.handle_exit(signal.SIGTERM, None)
    assert not ends
    server.handle_exit(signal.SIGINT, None)
    assert ends == [130]
    faulthandler.cancel_dump_traceback_later()
