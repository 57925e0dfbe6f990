"""The application, built in one place and handed down."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

import torch
from fastapi import FastAPI

from service import __version__
from service.api import adapters, operations, predict, problems, reference
from service.api.guard import Guard
from service.api.keys import Keyring
from service.api.protocols import embeddings, inference, repository
from service.api.services import Services, build_services
from service.engine import native
from service.engine.base_model import BaseModel
from service.errors import BadKeys
from service.settings import Settings

log = logging.getLogger(__name__)

FOLLOW_SECONDS = 1.0


def create_app(settings: Settings, base: BaseModel | None = None) -> FastAPI:
    """Loads everything and returns the ASGI application; its engine thread lives as long as the app's lifespan.

    Args:
        base: use this one instead of loading `settings.base_model`.

    Raises:
        BadBase, BadStore, BadKeys: the service cannot start; the reason is named.
    """
    services = build_services(settings, base)
    app = FastAPI(
        title="Rootstock",
        version=__version__,
        summary="Many text tasks answered from one frozen transformer.",
        lifespan=_lifespan,
        docs_url=None,  # the framework's page takes its script from another host
        redoc_url=None,
        responses=problems.documented(401, 403, 421, 503),
        redirect_slashes=False,  # a redirect would lead to whatever host the caller claims to have called
    )
    app.state.services = services
    app.add_middleware(Guard, services)
    problems.install(app)
    for part in (predict, adapters, operations, inference, repository, embeddings, reference):
        app.include_router(part.router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    if services.settings.threads:
        torch.set_num_threads(services.settings.threads)  # for this thread too, where another one has loaded
    with native.taken_threads() if services.base.weights.native is not None else nullcontext():
        services.runner.start()
        following = asyncio.create_task(_follow(services.keyring)) if services.keyring else None
        try:
            yield
        finally:
            if following:
                following.cancel()
            await asyncio.to_thread(services.runner.stop, services.settings.stop_seconds)
            services.changes.shutdown()
            services.readers.shutdown()
            services.registry.close()


async def _follow(keyring: Keyring) -> None:
    """Has a change of the keys' file take effect within a second or two."""
    while True:
        await asyncio.sleep(FOLLOW_SECONDS)
        try:
            if await asyncio.to_thread(keyring.refresh):
                log.info("keys read again: %d", len(keyring.table.keys))
        except BadKeys as error:
            log.error("%s; the keys stay as they were", error.detail)
