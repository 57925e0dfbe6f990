"""HTTP/1.1 as uvicorn and llhttp read it, with bounds on what is not a body."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 2**16  # bytes of a request line with its headers, or of the trailers
HEAD_SECONDS = 20.0  # until a head is whole, from its first byte on, or since the connection was opened


class Protocol(HttpToolsProtocol):
    """A connection whose heads are bounded in size and in time. Bodies are the application's to bound.

    Without, a caller could fill the memory with one header that never ends, and a hundred callers who say nothing
    could hold a hundred connections for ever.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unread = 0  # bytes since a head was whole, or a part of a body
        self._in_head = True
        self._limit: asyncio.TimerHandle | None = None  # runs while a head is awaited

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_whole()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head and self._limit is None:
            self._await_head()
        self._unread += len(data)
        super().data_received(data)
        if self._unread > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response(f"The request has more than {MAX_HEAD} bytes of headers.")

    def on_headers_complete(self) -> None:
        self._in_head, self._unread = False, 0
        self._head_is_whole()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head = True
        super().on_message_complete()

    def _await_head(self) -> None:
        self._limit = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:  # what came before it is being answered
            self._await_head()

    def _head_is_whole(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
