"""A line between a client and its service on which things go wrong, as a test has planned it."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Fate(Enum):
    """What becomes of a request."""

    PASSED = "passed on, and so is the answer"
    CUT = "the connection is closed, and the service has not seen the request"
    LOST = "passed on, and the connection is closed when the answer is due"
    BUSY = "refused with 503 by something in between"
    LIMITED = "refused with 429"


class Relay(ThreadingHTTPServer):
    """Passes requests on to a service as its fates will have it; when they are used up, to the end."""

    daemon_threads = True

    def __init__(self, service: str, fates: Iterator[Fate]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.service, self.fates = service.removeprefix("http://"), fates
        self.arrived: list[str] = []  # requests that the service has seen

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Relay

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        self.close_connection = True
        if not self.raw_requestline or not self.parse_request():
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fate = next(self.server.fates, Fate.PASSED)
        if fate in (Fate.PASSED, Fate.LOST):
            answer = self._passed_on(body)
            if fate is Fate.PASSED:
                self._answer(*answer)
        elif fate is not Fate.CUT:
            self._answer(503 if fate is Fate.BUSY else 429, [("Retry-After", "0")], b"try again")

    def _passed_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        self.server.arrived.append(f"{self.command} {self.path}")
        connection = HTTPConnection(self.server.service)
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def relaying(service: str, fates: Iterator[Fate]) -> Iterator[Relay]:
    with Relay(service, fates) as relay:
        thread = Thread(target=relay.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield relay
        finally:
            relay.shutdown()
            thread.join()
