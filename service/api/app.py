"""The application, built in one place and handed down."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from fastapi import FastAPI

from service import __version__
from service.api import adapters, operations, predict, problems
from service.api.protocols import embeddings, inference, repository
from service.api.services import Services, build_services
from service.engine import native
from service.engine.base_model import BaseModel
from service.settings import Settings


def create_app(settings: Settings, base: BaseModel | None = None) -> FastAPI:
    """Loads everything and returns the ASGI application; its engine thread lives as long as the app's lifespan.

    Args:
        base: use this one instead of loading `settings.base_model`.

    Raises:
        BadBase, BadStore: the service cannot start; the reason is named.
    """
    services = build_services(settings, base)
    app = FastAPI(
        title="Rootstock",
        version=__version__,
        summary="Many text tasks answered from one frozen transformer.",
        lifespan=_lifespan,
        redirect_slashes=False,  # a redirect would lead to whatever host the caller claims to have called
    )
    app.state.services = services
    problems.install(app)
    for part in (predict, adapters, operations, inference, repository, embeddings):
        app.include_router(part.router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    with native.taken_threads() if services.base.weights.native is not None else nullcontext():
        services.runner.start()
        try:
            yield
        finally:
            await asyncio.to_thread(services.runner.stop)
            services.changes.shutdown()
            services.registry.close()
