"""Each promise about the client is kept by both: the one that waits, and the one that is awaited."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, cast

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from service.api.app import create_app
from service.client import AsyncClient, Client
from service.engine.base_model import BaseModel
from service.settings import Settings
from tests.live import listening
from tests.tiny import make_adapter

Connect = Callable[..., AbstractContextManager[Client]]


class Driven:
    """An `AsyncClient` as a test can call it: each call is awaited on an event loop of its own."""

    def __init__(self, client: AsyncClient, portal: BlockingPortal) -> None:
        self._client, self._portal = client, portal

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments, **named: self._portal.call(partial(getattr(self._client, name), *arguments, **named))


@contextmanager
def awaited(url: str, **settings: Any) -> Iterator[Client]:
    client = AsyncClient(url, **settings)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
        yield cast(Client, Driven(client, portal))


@pytest.fixture(scope="module", params=[Client, awaited], ids=["waiting", "awaited"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Makes a client: `connect(url, …)`, as the classes themselves."""
    made: Connect = request.param
    return made


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, tiny_base: BaseModel) -> Iterator[str]:
    """A service that takes little at once, with two tasks; `mood` has a second version that is not active."""
    settings = Settings(store=tmp_path_factory.mktemp("store"), threads=1, max_body_bytes=10_000, max_inputs=12)
    with listening(create_app(settings, tiny_base)) as url:
        with Client(url) as client:
            client.push("mood", make_adapter(tiny_base, seed=1))
            client.push("mood", make_adapter(tiny_base, seed=11), activate=False)
            client.push("same", make_adapter(tiny_base, pair=True, seed=2))
        yield url


@pytest.fixture(scope="module")
def client(url: str, connect: Connect) -> Iterator[Client]:
    with connect(url) as client:
        yield client
