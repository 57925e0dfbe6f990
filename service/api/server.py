"""The server: listens before the service is loaded, and stops in order.

Starting, it is alive and not ready, and refuses all else with 503. On SIGTERM or SIGINT it refuses new work with 503,
answers what is under way, and ends with 0; on a second signal it ends at once, whatever is under way.
"""

import asyncio
import faulthandler
import gc
import logging
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import problems
from service.api.account import REQUEST_ID, open_account
from service.api.connection import Protocol
from service.errors import Starting
from service.settings import Settings

log = logging.getLogger(__name__)

LINGER_SECONDS = 0.5  # after the last answer; who was told that its connection closes finds a 503 behind the next one
CLOSE_SECONDS = 2  # for what is cut at the limit to hear of it
HANG_SECONDS = 10.0  # past the limit; a process that has not ended by then is stuck


class Server(uvicorn.Server):
    def __init__(self, settings: Settings, load: Callable[[], FastAPI]) -> None:
        """`load` makes the application, beside the event loop."""
        self._front = _Front()
        self._load = load
        self._stop_seconds = settings.stop_seconds
        self._running = AsyncExitStack()
        self.failure: Exception | None = None  # why the service could not be loaded
        super().__init__(
            uvicorn.Config(
                self._front,
                host=settings.host,
                port=settings.port,
                http=Protocol,
                lifespan="off",  # the application's own begins once it is loaded
                ws="none",
                log_config=None,  # as the rest of the process
                log_level="info",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=CLOSE_SECONDS,
            )
        )

    def handle_exit(self, number: int, frame: FrameType | None) -> None:
        """uvicorn's handler of SIGTERM and SIGINT; it does not raise them again, so the process ends with 0."""
        if self.should_exit:
            os._exit(128 + number)
        self.should_exit = True
        if self._front.loaded is not None:
            self._front.loaded.state.services.lifecycle.stopping = True
        faulthandler.dump_traceback_later(self._stop_seconds + HANG_SECONDS, exit=True)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loading = asyncio.create_task(self._loaded())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if not self._loading.done():
            os._exit(0)  # no work was taken; a thread that loads would keep the process otherwise
        if self._front.loaded is not None:
            await self._answer_what_is_left(self._front.loaded)
        await super().shutdown(sockets)
        await self._running.aclose()

    async def _loaded(self) -> None:
        try:
            app = await asyncio.to_thread(self._load)
            await self._running.enter_async_context(app.router.lifespan_context(app))
            # Libraries and tasks are there to stay; to look through them again would stop everybody for 0.2 seconds.
            gc.collect()
            gc.freeze()
            self._front.loaded = app
            log.info("ready; the calls are described at %s/docs", self._address())
        except Exception as error:
            self.failure, self.should_exit = error, True

    def _address(self) -> str:
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def _answer_what_is_left(self, app: FastAPI) -> None:
        lifecycle, runner = app.state.services.lifecycle, app.state.services.runner
        with suppress(TimeoutError):
            async with asyncio.timeout(self._stop_seconds):
                await lifecycle.idle()
                await asyncio.sleep(LINGER_SECONDS)
                await lifecycle.idle()
        for server in self.servers:
            server.close()
        runner.stop(0)
        # What came in before the last line is heard, and what is refused at the limit hears of it.
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.sleep(0.1)
                await lifecycle.idle()


class _Front:
    """What listens: until the application is loaded, itself."""

    def __init__(self) -> None:
        self.loaded: FastAPI | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp = self.loaded or _starting(scope)
        await app(scope, receive, send)


def _starting(scope: Scope) -> Response:
    account = open_account(scope)
    answer: Response
    if scope["path"] == "/healthz":
        answer = JSONResponse({"status": "alive"})
    else:
        answer = problems.refusal(scope, Starting("the base model and the adapters are being loaded"))
    problems.secure(answer.headers)
    answer.headers[REQUEST_ID] = account.id
    return answer
