"""A service of its own for a benchmark: a real process on a free port of this machine, ended with the block."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

import httpx2

START_SECONDS = 180.0


class Service(NamedTuple):
    url: str
    process: "subprocess.Popen[bytes]"


@contextmanager
def running_service(store: Path, *options: str) -> Iterator[Service]:
    """Starts `rootstock serve` on `store` and waits until it is ready.

    Raises:
        RuntimeError: it ended before it was ready, or took too long.
    """
    port = _free_port()
    command = [sys.executable, "-m", "service.cli", "serve", "--store", str(store), "--port", str(port), *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    service = Service(f"http://127.0.0.1:{port}", process)
    try:
        _wait(service)
        yield service
    finally:
        process.terminate()
        process.wait(timeout=60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(service: Service) -> None:
    give_up = monotonic() + START_SECONDS
    while monotonic() < give_up:
        if service.process.poll() is not None:
            raise RuntimeError(f"the service ended with {service.process.returncode} before it was ready")
        with suppress(httpx2.HTTPError):
            if httpx2.get(f"{service.url}/readyz").is_success:
                return
        sleep(0.1)
    raise RuntimeError(f"the service was not ready within {START_SECONDS:.0f} s")
