"""What a connection may hold, before there is a request."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from time import monotonic

import pytest

from service.api.app import create_app
from service.api.connection import MAX_HEAD
from service.engine.base_model import BaseModel
from service.settings import Settings
from tests.api.gate import Gate
from tests.api.test_server import PATIENCE, Live, live, wait_until

ASK = b"POST /predict/embedding HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = b'{"inputs": "good film"}'
WHOLE = ASK + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = ASK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(BODY), BODY)
PART = b"x" * 1000


@pytest.fixture
def service(tmp_path: Path, tiny_base: BaseModel) -> Iterator[Live]:
    settings = Settings(store=tmp_path / "store", port=0, threads=1)
    with live(settings, lambda: create_app(settings, tiny_base)) as one:
        wait_until(one.ready)
        yield one


@contextmanager
def connected(service: Live) -> Iterator[socket.socket]:
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        yield connection


def answer(connection: socket.socket) -> bytes:
    """Up to the end of a problem document or a prediction; empty where the connection was closed."""
    found = b""
    while not found.endswith((b"}\n", b"}", b"headers.")) and (more := connection.recv(65536)):
        found += more
    return found


def sent_until_closed(connection: socket.socket, begin: bytes, part: bytes) -> tuple[int, bytes]:
    """How many bytes the service took, and what it said; part by part, so that each is read for itself."""
    connection.sendall(begin)
    sent, said = len(begin), b""
    connection.settimeout(0.002)
    while sent < 4 * MAX_HEAD:
        try:
            if not (more := connection.recv(65536)):
                break
            said += more
        except TimeoutError:
            pass
        except ConnectionError:
            break
        try:
            connection.sendall(part)
        except ConnectionError:
            break
        sent += len(part)
    return sent, said


@pytest.mark.parametrize(
    ("begin", "part"),
    [
        (b"GET /", PART),
        (ASK + b"X-Long: ", PART),
        (ASK, b"X-Many: %s\r\n" % PART),
        (CHUNKED + b"0\r\nX-Trailer: ", PART),
        (CHUNKED + b"0\r\n", b"X-Trailers: %s\r\n" % PART),
        (CHUNKED + b"1;", PART),
    ],
    ids=["path", "header", "headers", "trailer", "trailers", "chunk-extension"],
)
def test_what_is_not_a_body_is_bounded(service: Live, begin: bytes, part: bytes) -> None:
    with connected(service) as connection:
        sent, said = sent_until_closed(connection, begin, part)
    assert sent < 2 * MAX_HEAD
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"more than 65536 bytes of headers" in said
    assert service.ready()


@pytest.mark.parametrize("request_line", [b"GET /healthz HTTP/1.1\r\n", WHOLE[: WHOLE.index(b"Host")]])
def test_a_long_head_within_the_bound_is_read_however_it_comes(service: Live, request_line: bytes) -> None:
    long = b"X-Long: " + b"x" * (MAX_HEAD - 1000) + b"\r\n"
    rest = WHOLE[WHOLE.index(b"Host") :] if request_line.startswith(b"POST") else b"Host: localhost\r\n\r\n"
    request = request_line + long + rest
    with connected(service) as connection:
        for _ in range(3):  # the next begins anew
            for start in range(0, len(request), 5000):
                connection.sendall(request[start : start + 5000])
            assert answer(connection).startswith(b"HTTP/1.1 200 ")


def test_a_body_is_not_counted(service: Live) -> None:
    body = b'{"inputs": "%s"}' % (b"good film " * (MAX_HEAD // 4))
    with connected(service) as connection:
        connection.sendall(ASK + b"Content-Length: %d\r\n\r\n" % len(body))
        for start in range(0, len(body), 9000):
            connection.sendall(body[start : start + 9000])
        assert answer(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("begun", [b"", b"\r\n", b"GET /healthz HTTP/1.1\r\nHost:"], ids=["none", "blank", "half"])
@pytest.mark.parametrize("before", [b"", WHOLE], ids=["first", "second"])
def test_a_head_that_does_not_come_is_not_waited_for(
    service: Live, monkeypatch: pytest.MonkeyPatch, before: bytes, begun: bytes
) -> None:
    monkeypatch.setattr("service.api.connection.HEAD_SECONDS", 0.2)
    with connected(service) as connection:
        if before:
            connection.sendall(before)
            assert answer(connection).startswith(b"HTTP/1.1 200 ")
        if begun:
            connection.sendall(begun)
        started = monotonic()
        assert connection.recv(1) == b""
        assert monotonic() - started < PATIENCE / 2
    assert service.ready()


def test_what_is_being_answered_is_not_cut_for_the_head_behind_it(
    tmp_path: Path, tiny_base: BaseModel, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.connection.HEAD_SECONDS", 0.05)
    settings = Settings(store=tmp_path / "store", port=0, threads=1)
    gate.open()
    with live(settings, lambda: create_app(settings, tiny_base)) as service:
        wait_until(service.ready)
        gate.close()
        with connected(service) as connection:
            connection.sendall(WHOLE)
            gate.wait_for_a_batch()
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
            Event().wait(0.3)  # six times as long as the head is waited for
            gate.open()
            assert answer(connection).startswith(b"HTTP/1.1 200 ")
            assert connection.recv(1) == b""


def test_it_stops_though_a_head_is_awaited(tmp_path: Path, tiny_base: BaseModel) -> None:
    settings = Settings(store=tmp_path / "store", port=0, threads=1)
    with live(settings, lambda: create_app(settings, tiny_base)) as service:
        wait_until(service.ready)
        with connected(service) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
            service.signal()
            assert service.ended()
