"""Disks that fail and machines that are killed, at any step; and what a store then holds."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from service.engine.bank import Bank
from service.engine.base_model import BaseModel
from service.engine.engine import Engine
from service.errors import UnknownTask
from service.metrics import Metrics
from service.registry.folder import CHANGING, LOCK, FolderStore
from service.registry.registry import Registry
from service.registry.store import Store

# What the store asks of the disk: make a temporary file or open the folder, reach the disk, name, remove.
STEPS = ("open", "fsync", "chmod", "link", "replace", "unlink")

FULL = OSError(errno.ENOSPC, "No space left on device")


class Killed(BaseException):
    """The process ends here: nobody handles it."""


class Disk:
    """Counts the steps, and raises `error` instead of the one numbered `fails_at`: 0 is the first."""

    def __init__(self, fails_at: int, error: BaseException) -> None:
        self._left = fails_at
        self._error = error

    @property
    def failed(self) -> bool:
        return self._left < 0

    def step(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if self.failed:
                return work(*args, **kwargs)
            self._left -= 1
            if self.failed:
                raise self._error
            return work(*args, **kwargs)

        return counted


@contextmanager
def trouble(fails_at: int, error: BaseException) -> Iterator[Disk]:
    """A disk that fails once."""
    disk = Disk(fails_at, error)
    with ExitStack() as stack:
        for name in STEPS:
            stack.enter_context(patch.object(os, name, disk.step(getattr(os, name))))
        yield disk


def open_registry(base: BaseModel, where: Path | Store, metrics: Metrics | None = None, spare: int = 8) -> Registry:
    """What a service that starts on this store would serve."""
    store = FolderStore(where) if isinstance(where, Path) else where
    registry = Registry(base, store, Bank(others=spare), metrics or Metrics(), lambda rows: Engine(base).run(rows))
    registry.open()
    return registry


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in (LOCK, CHANGING)}


def served(registry: Registry) -> dict[str, tuple[int, str]]:
    """Task → version and content of what answers it."""
    residents = {name: registry.resident(name) for name in registry.names()}
    return {name: (resident.version, resident.digest) for name, resident in residents.items()}


def held(registry: Registry, *names: str) -> dict[str, tuple[int | None, dict[int, str]]]:
    """Task → active version and every version's content, of those that have a version."""
    found = {}
    for name in names:
        with suppress(UnknownTask):
            task = registry.task(name)
            if task.versions:
                found[name] = task.active, {number: version.digest for number, version in task.versions.items()}
    return found
