"""What answers each task: from memory, or read from the store when it is asked for."""

from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from threading import Lock
from weakref import ref

from service.adapters.file import Header
from service.engine.bank import BARE_TASK, Bank, Resident, bare_resident
from service.engine.base_model import BaseModel
from service.errors import BadAdapter, Conflict, UnknownTask, UnknownVersion
from service.metrics import Metrics
from service.registry.loader import Loader, refused
from service.registry.log import PART, Log
from service.registry.release import Standing
from service.registry.store import Store
from service.registry.versions import Behind, Task, Version


class Served:
    """Readers take no lock: a task is immutable, and is swapped whole."""

    def __init__(self, base: BaseModel, store: Store, bank: Bank, metrics: Metrics) -> None:
        self._store = store
        self._loader = Loader(base, store)
        self._bank = bank
        self._bare = bare_resident(base)
        self._tasks: dict[str, Task] = {}
        self._changing = Lock()  # one change at a time
        self._metrics = metrics
        metrics.tasks.set_function(lambda: len(self.served()))
        metrics.refused_adapters.set_function(lambda: len(self._refused()))
        metrics.resident_adapters.set_function(lambda: len(list(bank)))
        metrics.resident_bytes.set_function(lambda: sum(resident.bytes for resident in bank))
        metrics.adapter_parameters.set_function(lambda: sum(version.parameters for version in self.served()))
        metrics.store_free_bytes.set_function(store.free_bytes)
        metrics.tasks_behind.set_function(lambda: sum(task.behind is not None for task in self._tasks.values()))

    def close(self) -> None:
        """Gives the store back. Changes nothing in memory."""
        self._store.close()

    def names(self) -> list[str]:
        """Tasks that answer, in order: those with an active version that could be loaded, and the bare base."""
        return sorted([BARE_TASK, *(name for name in self._tasks if self._served(name))])

    def served(self) -> list[Version]:
        """The versions that answer those tasks, without the bare base."""
        found = (task.versions.get(task.serving) for task in self._tasks.values() if task.serving is not None)
        return [version for version in found if version is not None and version.problem is None]

    def tasks(self) -> list[Task]:
        """All tasks of the store, served or not."""
        return [task for task in self._tasks.values() if task.last]  # of others the first upload was cut short

    def task(self, name: str) -> Task:
        """A task of the store, served or not.

        Raises:
            UnknownTask
        """
        return check_known(self._tasks.get(name, Task(name)))

    def resident(self, name: str, version: int | None = None) -> Resident:
        """What answers `name`: its active version, or the one asked for. May read a file: not for an event loop.

        Raises:
            UnknownTask, UnknownVersion, BadStore
            BadAdapter: the version asked for is in the store but refused.
        """
        return self.ready(name, version) or self.fetch(name, version).result()

    def fetch(self, name: str, version: int | None = None) -> "Future[Resident]":
        """Begins to read what `ready` has not; once, however many wait. The future raises as `resident` does.

        Raises:
            UnknownTask, UnknownVersion, BadAdapter
        """
        number = self._version(self.task(name), version).number
        return self._loader.begin(name, number, partial(self._load, name, number))

    def ready(self, name: str, version: int | None = None) -> Resident | None:
        """As `resident`, from memory alone: None where a file would have to be read.

        Raises:
            UnknownTask, UnknownVersion, BadAdapter
        """
        found = self.version(name, version)
        return self._bare if name == BARE_TASK else self._bank.get(name, found.number)

    def active(self, name: str) -> Version:
        """The version that answers `name`, in memory or not.

        Raises:
            UnknownTask, UnknownVersion, BadAdapter
        """
        return self.version(name)

    def version(self, name: str, number: int | None = None) -> Version:
        """What answers `name`, or would if the number were named; in memory or not.

        Raises:
            UnknownTask, UnknownVersion, BadAdapter
        """
        if name != BARE_TASK:
            return self._version(self.task(name), number)
        if number not in (None, 0):
            raise UnknownVersion(f"task {name} is the bare base; it has no version {number}")
        return Version(0, self._bare.digest, 0, Header(self._bare.manifest, {}, 0))

    def holds(self, name: str, number: int) -> bool:
        """Whether a version is in memory. Asking does not count as use."""
        return name == BARE_TASK or self._bank.holds(name, number)

    def standing(self, name: str) -> Standing | None:
        """The release of `name` that is under way, if there is one."""
        task = self._tasks.get(name)
        return task.standing if task is not None else None

    def file(self, name: str, number: int) -> bytes:
        """A version's bytes as they were uploaded.

        Raises:
            UnknownTask, UnknownVersion, BadStore
        """
        if number not in self.task(name).versions:
            raise UnknownVersion(f"task {name} has no version {number}")
        return self._store.read(name, number)

    def log(self, name: str) -> Log:
        """All that happened to a task, the oldest first. Reads files: not for an event loop.

        Raises:
            UnknownTask, BadStore
        """
        task = self.task(name)
        parts = (self._store.archived(name, first) for first in range(1, task.earlier + 1, PART))
        return tuple(entry for part in (*parts, task.log) for entry in part)

    def release(self, name: str) -> None:
        """Lets go the memory of a task's versions. The task is served as before: what is asked for is read again.

        Raises:
            UnknownTask
            Conflict: the task is one that stays in memory.
        """
        if name == BARE_TASK or self._bank.pins(name):
            raise Conflict(f"task {name} stays in memory")
        for number in self.task(name).versions:
            self._bank.drop(name, number)

    def leaving(self, name: str) -> "list[ref[Resident]]":
        """What was let go of a task and is still in memory, for rows that were admitted on it."""
        return self._bank.leaving(name)

    def residents(self) -> Iterable[Resident]:
        """Adapter versions in memory."""
        return iter(self._bank)

    @property
    def bare(self) -> Resident:
        return self._bare

    def _load(self, name: str, number: int) -> Resident:
        """Takes a version of the store into memory; the tensors of one that was not served are judged only here."""
        version = self._version(self.task(name), number)
        try:
            with self._metrics.load_failures.count_exceptions(), self._metrics.load_seconds.time():
                judged, resident = self._loader.load(name, version)
        except BadAdapter as error:
            with self._changing:
                self._refuse(name, number, error.detail)
            raise
        if judged is not version:
            self._note(name, version, judged)
        serving = self.task(name).serving == number
        (self._bank.serve if serving else self._bank.keep)(name, resident)
        if number not in self.task(name).versions:  # deleted while it was read
            self._bank.drop(name, number)
        return resident

    def _note(self, name: str, before: Version, judged: Version) -> None:
        """Spares the next load the judgement; but waits for no change, which takes longer than to judge again."""
        if not self._changing.acquire(blocking=False):
            return
        try:
            task = self._tasks.get(name)
            if task is not None and task.versions.get(before.number) is before:
                self._tasks = {**self._tasks, name: task.having(judged)}
        finally:
            self._changing.release()

    def _refuse(self, name: str, number: int, problem: str) -> None:
        task = self._tasks.get(name)
        if task is not None and number in task.versions:
            behind = Behind(None, problem) if task.serving == number else task.behind
            task = replace(task.having(refused(name, task.versions[number], problem)), behind=behind)
            self._tasks = {**self._tasks, name: task}

    def _install(self, task: Task, served: Resident | None) -> None:
        # In memory before it is active, and the old one until then: no reader finds a task without its adapter.
        if served is not None:
            self._bank.keep(task.name, served)
        self._tasks = {**self._tasks, task.name: task}
        if served is not None:
            self._bank.serve(task.name, served)

    def _version(self, task: Task, number: int | None) -> Version:
        serving = task.active if task.serving is None else task.serving
        wanted = serving if number is None else number
        if wanted is None:
            reason = f": {task.behind.reason}" if task.behind is not None else ""
            raise UnknownTask(f"task {task.name!r} has no active version{reason}")
        version = task.versions.get(wanted)
        if version is None:
            raise UnknownVersion(f"task {task.name} has no version {wanted}")
        if version.problem is not None:
            raise BadAdapter(f"task {task.name} version {wanted} cannot be served: {version.problem}")
        return version

    def _refused(self) -> list[Version]:
        """Versions that are there and cannot be served."""
        versions = (version for task in self._tasks.values() for version in task.versions.values())
        return [version for version in versions if version.problem is not None]

    def _served(self, name: str) -> bool:
        task = self._tasks[name]
        version = task.versions.get(task.serving) if task.serving is not None else None
        return version is not None and version.problem is None


def check_known(task: Task) -> Task:
    if not task.last:  # it never was, or its first upload was cut short
        raise UnknownTask(f"there is no task {task.name!r}")
    return task
