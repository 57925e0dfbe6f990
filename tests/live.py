"""An application on a real socket of this machine, in a thread of the test."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from time import monotonic, sleep

import uvicorn
from starlette.types import ASGIApp

START_SECONDS = 30.0


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """Serves the app on a free port, and gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
        thread = Thread(target=server.run, args=([free],))
        thread.start()
        try:
            give_up = monotonic() + START_SECONDS
            while not server.started:
                assert thread.is_alive()
                assert monotonic() < give_up
                sleep(0.005)
            yield f"http://127.0.0.1:{free.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
