"""Tasks, their versions, and which one is served. Changes go to the store first, then to memory."""

import logging
import re
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from threading import Lock

from service.adapters.file import Header
from service.adapters.manifest import TASK_NAME, TASK_NAME_WORDS
from service.engine.bank import BARE_TASK, Bank, Resident, bare_resident
from service.engine.base_model import BaseModel
from service.errors import BadAdapter, BadInput, BadStore, Conflict, UnknownTask, UnknownVersion
from service.metrics import Metrics
from service.registry.loader import Loader, refused
from service.registry.store import FolderStore, State
from service.registry.versions import Task, Version

log = logging.getLogger(__name__)


class Registry:
    def __init__(self, base: BaseModel, store: FolderStore, bank: Bank, metrics: Metrics) -> None:
        self._store = store
        self._loader = Loader(base, store)
        self._bank = bank
        self._bare = bare_resident(base)
        self._tasks: dict[str, Task] = {}
        self._changing = Lock()  # one change at a time; reads take no lock
        metrics.resident_adapters.set_function(lambda: len(list(bank)))
        metrics.adapter_parameters.set_function(lambda: sum(resident.parameters for resident in bank))

    def open(self) -> None:
        """Loads what is active, and the headers of the rest.

        A bad file or state is logged and refused; it keeps no other from being served.
        """
        states = self._store.states()
        found = self._store.versions()
        for name in sorted(found.keys() | states.keys(), key=lambda name: (not self._bank.pins(name), name)):
            if name == BARE_TASK:
                log.error("the store's files of task %s are not served: the bare base answers it", name)
                continue
            numbers = found.get(name, [])
            state = states.get(name) or State(active=numbers[-1], last=numbers[-1])
            if isinstance(state, BadStore):
                log.error("%s; files of task %s are not served", state.detail, name)
                task = self._unknown_state(name, numbers, state.detail)
            else:
                task = self._examine_all(name, numbers, state)
            if task.last:  # else its first upload was cut short
                self._tasks[name] = task

    def close(self) -> None:
        """Lets another service have the store. Changes nothing in memory."""
        self._store.close()

    def names(self) -> list[str]:
        """Tasks that answer, in order: those with an active version that could be loaded, and the bare base."""
        return sorted([BARE_TASK, *(name for name in self._tasks if self._served(name))])

    def served(self) -> list[Version]:
        """The active versions of those tasks, without the bare base."""
        found = (task.versions.get(task.active) for task in self._tasks.values() if task.active is not None)
        return [version for version in found if version is not None and version.problem is None]

    def tasks(self) -> list[Task]:
        """All tasks of the store, served or not."""
        return list(self._tasks.values())

    def task(self, name: str) -> Task:
        """A task of the store, served or not.

        Raises:
            UnknownTask
        """
        task = self._tasks.get(name)
        if task is None:
            raise UnknownTask(f"there is no task {name!r}")
        return task

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

    def upload(self, name: str, data: bytes, activate: bool = True) -> tuple[Version, bool]:
        """Validates a file, keeps it durably, and serves it.

        Returns:
            (the version, whether it is new: bytes that the task already has keep their number)

        Raises:
            BadInput: no task may have this name.
            BadAdapter: the file is refused; nothing has changed.
            Conflict: the name belongs to the bare base.
            BadStore: the store could not be written; nothing has changed.
        """
        if not re.fullmatch(TASK_NAME, name):
            raise BadInput(f"{name!r} is no task name: {TASK_NAME_WORDS}")
        if name == BARE_TASK:
            raise Conflict(f"task {name} is answered by the bare base and takes no adapter")
        with self._changing:
            task = self._tasks.get(name, Task(name))
            judged, resident = self._loader.judge(data, task.last + 1)
            good = (version for version in task.versions.values() if version.problem is None)
            known = next((version for version in good if version.digest == judged.digest), None)
            if known is None:
                return self._keep(task, data, judged, resident, activate), True
            if activate:
                self._activate(task, known)
            return known, False

    def activate(self, name: str, number: int) -> Version:
        """Serves another version from the next request on.

        Raises:
            UnknownTask, UnknownVersion, BadAdapter, BadStore
        """
        with self._changing:
            task = self.task(name)
            version = self._version(task, number)
            self._activate(task, version)
            return version

    def retire(self, name: str) -> None:
        """Serves the task no more and removes its files; its version numbers stay used.

        Raises:
            UnknownTask, BadStore
        """
        with self._changing:
            task = self.task(name)
            self._store.write_state(name, State(active=None, last=task.last))
            # From here on nobody is answered, whatever becomes of the files.
            task = replace(task, active=None)
            self._put(task)
            for number in task.versions:
                task = self._remove(task, number)

    def delete(self, name: str, number: int) -> None:
        """Removes one version that is not active.

        Raises:
            UnknownTask, UnknownVersion, Conflict, BadStore
        """
        with self._changing:
            task = self.task(name)
            if number not in task.versions:
                raise UnknownVersion(f"task {name} has no version {number}")
            if number == task.active:
                raise Conflict(
                    f"version {number} is the active one of task {name}; activate another, or retire the task"
                )
            self._store.write_state(name, State(active=task.active, last=task.last))
            self._remove(task, number)

    def file(self, name: str, number: int) -> bytes:
        """A version's bytes as they were uploaded.

        Raises:
            UnknownTask, UnknownVersion, BadStore
        """
        if number not in self.task(name).versions:
            raise UnknownVersion(f"task {name} has no version {number}")
        return self._store.read(name, number)

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

    def residents(self) -> Iterable[Resident]:
        """Adapter versions in memory."""
        return iter(self._bank)

    @property
    def bare(self) -> Resident:
        return self._bare

    def _load(self, name: str, number: int) -> Resident:
        """Takes a version of the store into memory; the tensors of one that was not served are judged only here."""
        try:
            resident = self._loader.load(name, self._version(self.task(name), number))
        except BadAdapter as error:
            with self._changing:
                self._refuse(name, number, error.detail)
            raise
        active = self.task(name).active == number
        (self._bank.serve if active else self._bank.keep)(name, resident)
        if number not in self.task(name).versions:  # deleted while it was read
            self._bank.drop(name, number)
        return resident

    def _refuse(self, name: str, number: int, problem: str) -> None:
        task = self._tasks.get(name)
        if task is not None and number in task.versions:
            self._put(task.having(refused(name, task.versions[number], problem)))

    def _examine_all(self, name: str, numbers: list[int], state: State) -> Task:
        """A task as its files and its state tell it: the state may name a version that is not there."""
        named = [] if state.active is None else [state.active]
        versions = {number: self._examine(name, number, number in named) for number in sorted({*numbers, *named})}
        return Task(name, versions, state.active, max([state.last, *versions]))

    def _unknown_state(self, name: str, numbers: list[int], problem: str) -> Task:
        """Files of which nobody knows which one was active."""
        found = {number: self._examine(name, number, active=False).refused(problem) for number in numbers}
        return Task(name, found, last=max(numbers, default=0))

    def _examine(self, name: str, number: int, active: bool) -> Version:
        """Judges one file of the store, and takes it into memory if it is to be served."""
        version = self._loader.examine(name, number)
        if active and version.problem is None and not self._bank.full:
            try:
                self._bank.serve(name, self._loader.load(name, version))
            except (BadAdapter, BadStore) as error:
                return refused(name, version, error.detail)
        return version

    def _version(self, task: Task, number: int | None) -> Version:
        wanted = task.active if number is None else number
        if wanted is None:
            raise UnknownTask(f"task {task.name!r} has no active version")
        version = task.versions.get(wanted)
        if version is None:
            raise UnknownVersion(f"task {task.name} has no version {wanted}")
        if version.problem is not None:
            raise BadAdapter(f"task {task.name} version {wanted} cannot be served: {version.problem}")
        return version

    def _served(self, name: str) -> bool:
        task = self._tasks[name]
        active = task.versions.get(task.active) if task.active is not None else None
        return active is not None and active.problem is None

    def _keep(self, task: Task, data: bytes, judged: Version, resident: Resident, activate: bool) -> Version:
        """A new version: file first, then the state that names it; a failure in between leaves the old state."""
        # Without a state the new file, being the highest, would be served from its first moment on the disk.
        self._store.write_state(task.name, State(active=task.active, last=task.last))
        version = self._write(task.name, judged, data)
        kept = replace(task.having(version), last=version.number)
        try:
            if activate:
                self._serve(kept, replace(resident, version=version.number))
            else:
                self._store.write_state(task.name, State(active=task.active, last=version.number))
                self._put(kept)
        except BadStore:
            self._store.remove(task.name, version.number)
            raise
        return version

    def _write(self, name: str, version: Version, data: bytes) -> Version:
        """Writes a file under the first free number from the version's on, and returns it with that."""
        while True:
            try:
                return replace(version, tag=self._store.write(name, version.number, data))
            except FileExistsError:
                log.warning("task %s: version %d was put into the store by hand; taking the next", name, version.number)
                version = replace(version, number=version.number + 1)

    def _activate(self, task: Task, version: Version) -> None:
        if version.number == task.active:
            return
        resident = self._bank.get(task.name, version.number)
        if resident is None:
            resident = self._loader.load(task.name, version)
        self._serve(task, resident)

    def _serve(self, task: Task, resident: Resident) -> None:
        self._store.write_state(task.name, State(active=resident.version, last=task.last))
        # In memory before it is active, and the old one until then: no reader finds a task without its adapter.
        self._bank.keep(task.name, resident)
        self._put(replace(task, active=resident.version))
        self._bank.serve(task.name, resident)

    def _remove(self, task: Task, number: int) -> Task:
        """File first: memory forgets nothing that the disk would bring back."""
        self._store.remove(task.name, number)
        task = replace(task, versions={kept: version for kept, version in task.versions.items() if kept != number})
        self._put(task)
        self._bank.drop(task.name, number)  # last: who keeps it later sees that it has gone
        return task

    def _put(self, task: Task) -> None:
        self._tasks = {**self._tasks, task.name: task}
