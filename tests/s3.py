"""An S3 endpoint of this machine, spoken to over HTTP: moto's server, in a process of its own.

It answers one request after another, so its conditions hold among any number of writers, as S3's do.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import httpx2

SERVE = """
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app))
print(server.server_port, flush=True)
server.serve_forever()
"""


def environment(url: str) -> dict[str, str]:
    """What a service needs to reach an endpoint."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }


class Endpoint:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._numbers = count(1)

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.url)

    def bucket(self) -> str:
        """A new one, as a store's URL."""
        name = f"adapters-{next(self._numbers)}"
        httpx2.put(f"{self.url}/{name}").raise_for_status()
        return f"s3://{name}/some/folder"


@contextmanager
def endpoint() -> Iterator[Endpoint]:
    command = [sys.executable, "-c", SERVE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout
            yield Endpoint(int(process.stdout.readline()))
        finally:
            process.kill()
