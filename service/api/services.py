"""Everything the routes work with, built once."""

import logging
from asyncio import Semaphore
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from fastapi import Depends, Request
from opentelemetry.trace import TracerProvider

from service import __version__
from service.api.keys import Keyring, KeysFile
from service.api.lifecycle import Lifecycle
from service.api.shadows import Shadows
from service.api.tracing import Tracing, exporting_provider
from service.api.trials import Trials
from service.engine.bank import Bank
from service.engine.base_model import BaseModel, load_base
from service.engine.engine import Engine
from service.engine.layout import why
from service.errors import BadStore, EngineFault, StoreFull, StoreReadOnly, StoreUnreachable
from service.metrics import Metrics
from service.registry.registry import Registry
from service.registry.stores import open_store
from service.serving.jobs import Job
from service.serving.pace import SMALLEST, Limits, Pace
from service.serving.quotas import Quotas
from service.serving.runner import Runner, give_way
from service.serving.scheduler import CREDIT, PATIENCE, UNPROVED, UNPROVED_WEIGHT, Scheduler
from service.settings import Settings, listed, numbered

log = logging.getLogger(__name__)

READERS = 2


@dataclass(frozen=True)
class Services:
    settings: Settings
    lifecycle: Lifecycle
    keyring: Keyring | None  # None: no key is asked for
    metrics: Metrics
    base: BaseModel
    registry: Registry
    runner: Runner
    quotas: Quotas
    readers: Executor  # for what would hold the event loop up; few, so that a rush of it leaves the engine its share
    trials: Trials
    shadows: Shadows
    uploads: Semaphore  # one place for each upload under way
    tracing: Tracing | None  # None: nobody asks for traces
    changes: Executor  # of the registry: room for each upload, which waits for the engine, and for one that does not


def build_services(
    settings: Settings, base: BaseModel | None = None, provider: TracerProvider | None = None
) -> Services:
    """Loads the base and the store's adapters.

    Args:
        base: use this one instead of loading `settings.base_model`.
        provider: takes the traces, if there shall be any; else `settings.traces` says.

    Raises:
        BadBase, BadStore, BadKeys, NotInstalled: the service cannot start; the reason is named.
    """
    if provider is None and settings.traces:
        provider = exporting_provider()
    tracing = Tracing(provider) if provider is not None else None
    keyring = Keyring(KeysFile(Path(settings.keys_file))) if settings.keys_file else None
    if settings.threads:
        torch.set_num_threads(settings.threads)
    metrics = Metrics(settings.metrics_tasks)
    base = base or load_base(settings.base_model, settings.dtype, serving=True, device=settings.device)
    bank = Bank(settings.max_resident, settings.spare_versions, listed(settings.pinned), evicted=metrics.evictions.inc)
    weights = {UNPROVED: UNPROVED_WEIGHT} | numbered(settings.weights)
    scheduler, pace = Scheduler[Job](weights, CREDIT, SMALLEST, PATIENCE), _pace(settings)
    runner = Runner(Engine(base), scheduler, pace, metrics, watch=tracing.batch if tracing is not None else None)
    registry = Registry(
        base,
        open_store(settings.store),
        bank,
        metrics,
        run=lambda rows: runner.submit(rows, UNPROVED, apart=True).result(),
    )
    registry.open()
    tasks = len(registry.names()) - 1
    kernels = "own kernels" if base.weights.native is not None else f"torch's kernels on {base.device}"
    lifecycle = Lifecycle()
    _describe(metrics, settings, base)
    metrics.under_way.set_function(lambda: lifecycle.requests)
    metrics.ready.set_function(lambda: not lifecycle.stopping and runner.busy_seconds() is not None)
    reason = f", {why(base.precision, base.device)}" if settings.dtype == "auto" else ""
    log.info(
        "base %s by %s in %s%s; store %s, %d tasks",
        base.name, kernels, base.precision, reason, settings.store, tasks,
    )  # fmt: skip
    return Services(
        settings=settings,
        lifecycle=lifecycle,
        keyring=keyring,
        metrics=metrics,
        base=base,
        registry=registry,
        runner=runner,
        quotas=Quotas(numbered(settings.quotas)),
        readers=ThreadPoolExecutor(READERS, "reader"),
        trials=Trials(registry, metrics),
        shadows=Shadows(),
        uploads=Semaphore(settings.uploads),
        tracing=tracing,
        changes=ThreadPoolExecutor(settings.uploads + 1, "registry", give_way),
    )


def _describe(metrics: Metrics, settings: Settings, base: BaseModel) -> None:
    """What the metrics say of a service from its start on."""
    metrics.base_parameters.set(base.parameters)
    metrics.base_bytes.set(base.bytes)
    for error in (
        BadStore,
        EngineFault,
        StoreFull,
        StoreReadOnly,
        StoreUnreachable,
    ):  # alerts that wait for the first must have seen none
        metrics.refusals.labels(error.code)
    metrics.build.info(
        {
            "version": __version__,
            "base": base.name,
            "dtype": base.precision,
            "device": str(base.device),
            "kernels": "own" if base.weights.native is not None else "torch",
        }
    )


def _pace(settings: Settings) -> Pace:
    return Pace(Limits(*(getattr(settings, name) for name in Limits._fields)))


async def _services(request: Request) -> Services:  # async, or FastAPI would run it in a thread
    services: Services = request.app.state.services
    return services


ServicesHere = Annotated[Services, Depends(_services)]
