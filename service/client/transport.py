"""Two ways to wait: the calling thread, or the event loop. Everything else about a call is written once."""

import asyncio
import time
from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import httpx2

T = TypeVar("T")


class Request(NamedTuple):
    method: str
    path: str
    content: bytes | None = None
    media_type: str = "application/json"
    query: dict[str, str] | None = None
    headers: Mapping[str, str] = {}
    repeatable: bool = True  # whether twice is as good as once, should nobody know whether it arrived


class Transport(Protocol):
    async def send(self, request: Request) -> httpx2.Response:
        """Raises httpx2.HTTPError where there is no answer."""

    async def sleep(self, seconds: float) -> None: ...


class Blocking:
    """Never gives control away: what awaits this can be run by `finish`."""

    def __init__(self, http: httpx2.Client) -> None:
        self._http = http

    async def send(self, request: Request) -> httpx2.Response:
        return self._http.send(_built(self._http, request))

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Awaiting:
    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def send(self, request: Request) -> httpx2.Response:
        return await self._http.send(_built(self._http, request))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def finish(call: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that awaits nothing but a `Blocking` transport, in one step and without an event loop."""
    try:
        call.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    call.close()
    raise AssertionError("a blocking call gave control away")


def _built(http: httpx2.Client | httpx2.AsyncClient, request: Request) -> httpx2.Request:
    headers = {**request.headers, **({"Content-Type": request.media_type} if request.content is not None else {})}
    return http.build_request(
        request.method, request.path, content=request.content, params=request.query, headers=headers
    )
