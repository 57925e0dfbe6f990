"""Everything the routes work with, built once."""

import logging
from asyncio import Semaphore
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from fastapi import Depends, Request

from service.api.keys import Keyring, KeysFile
from service.api.lifecycle import Lifecycle
from service.engine.bank import Bank
from service.engine.base_model import BaseModel, load_base
from service.engine.engine import Engine
from service.metrics import Metrics
from service.registry.registry import Registry
from service.registry.store import FolderStore
from service.serving.jobs import Job
from service.serving.pace import Limits, Pace
from service.serving.quotas import Quotas
from service.serving.runner import Runner
from service.serving.scheduler import UNPROVED, Scheduler
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
    uploads: Semaphore  # one place for each upload under way
    changes: Executor  # of the registry: room for each upload, which waits for the engine, and for one that does not


def build_services(settings: Settings, base: BaseModel | None = None) -> Services:
    """Loads the base and the store's adapters.

    Args:
        base: use this one instead of loading `settings.base_model`.

    Raises:
        BadBase, BadStore, BadKeys: the service cannot start; the reason is named.
    """
    keyring = Keyring(KeysFile(Path(settings.keys_file))) if settings.keys_file else None
    if settings.threads:
        torch.set_num_threads(settings.threads)
    metrics = Metrics()
    base = base or load_base(settings.base_model, settings.dtype, serving=True, device=settings.device)
    metrics.base_parameters.set(base.parameters)
    bank = Bank(settings.max_resident, settings.spare_versions, listed(settings.pinned))
    pace = Pace(Limits(**settings.model_dump(include=set(Limits._fields))))
    runner = Runner(Engine(base), Scheduler[Job](numbered(settings.weights)), pace, metrics)
    registry = Registry(
        base,
        FolderStore(settings.store),
        bank,
        metrics,
        run=lambda rows: runner.submit(rows, UNPROVED, apart=True).result(),
    )
    registry.open()
    tasks = len(registry.names()) - 1
    kernels = "own kernels" if base.weights.native is not None else f"torch's kernels on {base.device}"
    log.info(
        "base %s in %s by %s; store %s, %d tasks",
        base.name, base.precision, kernels, settings.store.resolve(), tasks,
    )  # fmt: skip
    return Services(
        settings=settings,
        lifecycle=Lifecycle(),
        keyring=keyring,
        metrics=metrics,
        base=base,
        registry=registry,
        runner=runner,
        quotas=Quotas(numbered(settings.quotas)),
        readers=ThreadPoolExecutor(READERS, "reader"),
        uploads=Semaphore(settings.uploads),
        changes=ThreadPoolExecutor(settings.uploads + 1, "registry"),
    )


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesHere = Annotated[Services, Depends(_services)]
