"""The application, built in one place and handed down."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

import torch
from fastapi import FastAPI
from opentelemetry.trace import TracerProvider

from service import __version__
from service.api import adapters, candidates, operations, predict, problems, reference
from service.api.guard import PROBES, Guard
from service.api.journal import Journal
from service.api.keys import Keyring
from service.api.protocols import embeddings, inference, repository
from service.api.services import Services, build_services
from service.api.tracing import Tracing
from service.engine import native
from service.engine.base_model import BaseModel
from service.errors import BadKeys, BadStore
from service.settings import Settings

log = logging.getLogger(__name__)

KEYS_SECONDS = 1.0


def create_app(settings: Settings, base: BaseModel | None = None, provider: TracerProvider | None = None) -> FastAPI:
    """Loads everything and returns the ASGI application; its engine thread lives as long as the app's lifespan.

    Args:
        base: use this one instead of loading `settings.base_model`.
        provider: takes the traces, if there shall be any; else `settings.traces` says.

    Raises:
        BadBase, BadStore, BadKeys, NotInstalled: the service cannot start; the reason is named.
    """
    services = build_services(settings, base, provider)
    app = routes(services.tracing)
    app.state.services = services
    app.add_middleware(Guard, services)
    app.add_middleware(Journal, services)  # around the guard
    return app


def routes(tracing: Tracing | None = None) -> FastAPI:
    """The routes and what they say of themselves, with nothing behind them yet."""
    app = FastAPI(
        title="Rootstock",
        version=__version__,
        summary="Many text tasks answered from one frozen transformer.",
        lifespan=_lifespan,
        docs_url=None,  # the framework's page takes its script from another host
        redoc_url=None,
        responses=problems.documented(401, 403, 421, 503),
        redirect_slashes=False,  # a redirect would lead to whatever host the caller claims to have called
        telemetry={
            "tracer_provider": tracing.provider if tracing is not None else None,
            "tracing": tracing is not None,
            "exclude": lambda scope: scope["path"] in PROBES,
            # The log and /metrics are ours; the framework's would hold what was sent.
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    problems.install(app)
    for part in (predict, adapters, candidates, operations, inference, repository, embeddings, reference):
        app.include_router(part.router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    if services.settings.threads:
        torch.set_num_threads(services.settings.threads)  # for this thread too, where another one has loaded
    with native.taken_threads() if services.base.weights.native is not None else nullcontext():
        services.runner.start()
        following = [asyncio.create_task(_follow_keys(services.keyring))] if services.keyring else []
        if services.settings.follow_seconds:
            following.append(asyncio.create_task(_follow_store(services)))
        try:
            yield
        finally:
            for task in following:
                task.cancel()
            await services.shadows.end()
            await asyncio.to_thread(services.runner.stop, services.settings.stop_seconds)
            services.changes.shutdown()
            services.readers.shutdown()
            services.registry.close()
            if services.tracing is not None:
                await asyncio.to_thread(services.tracing.end)


async def _follow_keys(keyring: Keyring) -> None:
    """Has a change of the keys' file take effect within a second or two."""
    while True:
        await asyncio.sleep(KEYS_SECONDS)
        try:
            if await asyncio.to_thread(keyring.refresh):
                log.info("keys read again: %d", len(keyring.table.keys))
        except BadKeys as error:
            log.error("%s; the keys stay as they were", error.detail)
        except Exception:  # or a key that is taken back later would be taken for ever
            log.exception("the keys could not be read again")


async def _follow_store(services: Services) -> None:
    """Takes over what other services change in the store; while that cannot be reached, what is served goes on."""
    reachable = True
    while True:
        await asyncio.sleep(services.settings.follow_seconds)
        try:
            await asyncio.to_thread(services.registry.follow)
            if not reachable:
                log.info("store %s is followed again", services.settings.store)
            reachable = True
        except BadStore as error:
            if reachable:
                log.error("%s; what is served stays as it is", error.detail)
            reachable = False
        except Exception:
            log.exception("store %s could not be followed", services.settings.store)
