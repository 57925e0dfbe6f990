"""Tasks, their versions, and which one is served. Changes go to the store first, then to memory."""

import logging
import re
from collections.abc import Collection, Iterable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from threading import Lock

from service.adapters.file import Header
from service.adapters.manifest import TASK_NAME, TASK_NAME_WORDS
from service.engine.bank import BARE_TASK, Bank, Resident, bare_resident
from service.engine.base_model import BaseModel
from service.errors import BadAdapter, BadInput, BadStore, Conflict, UnknownCandidate, UnknownTask, UnknownVersion
from service.metrics import Metrics
from service.registry.loader import Loader, Whole, refused
from service.registry.log import Did
from service.registry.opening import clear, found_tasks
from service.registry.proof import Proof, Prover, Run
from service.registry.release import Candidate, Standing
from service.registry.store import FolderStore, State
from service.registry.versions import Task, Version, check_alike

log = logging.getLogger(__name__)


class Registry:
    def __init__(self, base: BaseModel, store: FolderStore, bank: Bank, metrics: Metrics, run: Run) -> None:
        """`run` is what uploads are proved by; nothing else here needs the engine."""
        self._store = store
        self._prover = Prover(base, run)
        self._loader = Loader(base, store)
        self._bank = bank
        self._bare = bare_resident(base)
        self._tasks: dict[str, Task] = {}
        self._changing = Lock()  # one change at a time; reads take no lock
        self._metrics = metrics
        metrics.tasks.set_function(lambda: len(self.served()))
        metrics.refused_adapters.set_function(lambda: len(self._refused()))
        metrics.resident_adapters.set_function(lambda: len(list(bank)))
        metrics.resident_bytes.set_function(lambda: sum(resident.bytes for resident in bank))
        metrics.adapter_parameters.set_function(lambda: sum(version.parameters for version in self.served()))
        metrics.store_free_bytes.set_function(store.free_bytes)

    def open(self) -> None:
        """Loads what is active, and the headers of the rest."""
        self._tasks = {task.name: task for task in found_tasks(self._store, self._loader, self._bank)}

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

    def standing(self, name: str) -> Standing | None:
        """The release of `name` that is under way, if there is one."""
        task = self._tasks.get(name)
        return task.standing if task is not None else None

    def upload(self, name: str, data: bytes, activate: bool = True, by: str = "-") -> tuple[Version, bool]:
        """Judges and proves a file, keeps it durably, and serves it.

        Args:
            by: who asks; it goes into the task's log.

        Returns:
            (the version, whether it is new: bytes that the task already has keep their number)

        Raises:
            BadInput: no task may have this name.
            BadAdapter: the file is refused; nothing has changed.
            Conflict: the name belongs to the bare base, or the task has a candidate of another kind.
            BadStore: the store could not be written; nothing has changed.
            Overloaded, EngineFault: it could not be proved; nothing has changed.
        """
        if not re.fullmatch(TASK_NAME, name):
            raise BadInput(f"{name!r} is no task name: {TASK_NAME_WORDS}")
        if name == BARE_TASK:
            raise Conflict(f"task {name} is answered by the bare base and takes no adapter")
        whole = self._loader.judge(data)
        known = self._tasks.get(name, Task(name)).known(whole.version.digest)
        proof = self._prove(whole) if known is None or known.proof is None else known.proof
        with self._changing:  # not before: others go on changing while this one is proved
            task = self._tasks.get(name, Task(name))
            known = task.known(whole.version.digest)
            if known is None:
                return self._keep(task, data, whole, proof, activate, by), True
            if activate:
                known = replace(known, proof=proof)
                self._activate(task, known, replace(whole.resident, version=known.number), by)
            return known, False

    def activate(self, name: str, number: int, by: str = "-") -> Version:
        """Serves another version from the next request on; one that was never proved is proved first.

        Raises:
            UnknownTask, UnknownVersion, BadAdapter, BadStore, Overloaded, EngineFault
            Conflict: the task has a candidate of another kind.
        """
        version = self._version(self.task(name), number)
        if number == self.task(name).active:
            return version
        version, resident = self._proved(name, version)
        with self._changing:
            task = self.task(name)
            self._version(task, number)  # still there
            self._activate(task, version, resident, by)
            return version

    def nominate(self, name: str, candidate: Candidate, by: str = "-") -> Task:
        """Has a version stand beside the active one, or changes the mode and share of the one that does.

        Raises:
            UnknownTask, UnknownVersion, BadAdapter, BadStore, Overloaded, EngineFault
            Conflict: it is the active one, another one is the candidate, or it is of another kind.
        """
        self._check_nominated(self.task(name), candidate)
        version, resident = self._proved(name, self._version(self.task(name), candidate.version))
        with self._changing:
            task = self.task(name)
            self._check_nominated(task, candidate)
            if task.candidate != candidate:
                before, task = task.active, replace(task.having(version), candidate=candidate)
                self._commit(task.logged("nominate", by, before, version))
                self._bank.keep(name, resident)
            return self.task(name)

    def promote(self, name: str, by: str = "-") -> Version:
        """Makes the candidate the active version.

        Raises:
            UnknownTask, UnknownCandidate, UnknownVersion, BadAdapter, BadStore, Overloaded, EngineFault
        """
        candidate = self._candidate(self.task(name))
        version, resident = self._proved(name, self._version(self.task(name), candidate.version))
        with self._changing:
            task = self.task(name)
            if self._candidate(task).version != version.number:
                raise Conflict(f"task {name} has another candidate by now")
            self._activate(task, version, resident, by, "promote")
            return version

    def abandon(self, name: str, by: str = "-") -> None:
        """Ends a release: the active version answers as before, and the candidate stays as an inactive one.

        Raises:
            UnknownTask, UnknownCandidate, BadStore
        """
        with self._changing:
            task = self.task(name)
            version = task.versions[self._candidate(task).version]
            self._commit(replace(task, candidate=None).logged("abandon", by, task.active, version))

    def retire(self, name: str, by: str = "-") -> None:
        """Serves the task no more and removes its files; its version numbers stay used.

        Raises:
            UnknownTask, BadStore
        """
        with self._changing:
            task = self.task(name)
            if task.versions:
                retired = (
                    replace(task, active=None, candidate=None).without(*task.versions).logged("retire", by, task.active)
                )
                for version in task.versions.values():
                    retired = retired.logged("delete", by, None, version)
                self._commit(retired)
                self._clear(name, task.versions)

    def delete(self, name: str, number: int, by: str = "-") -> None:
        """Removes one version that is neither active nor the candidate.

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
            if task.candidate is not None and number == task.candidate.version:
                raise Conflict(f"version {number} is the candidate of task {name}; promote or abandon it first")
            self._commit(task.without(number).logged("delete", by, task.active, task.versions[number]))
            self._clear(name, [number])

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
            with self._metrics.load_failures.count_exceptions(), self._metrics.load_seconds.time():
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
            self._tasks = {**self._tasks, name: task.having(refused(name, task.versions[number], problem))}

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

    def _refused(self) -> list[Version]:
        """Versions that are there and cannot be served."""
        versions = (version for task in self._tasks.values() for version in task.versions.values())
        return [version for version in versions if version.problem is not None]

    def _candidate(self, task: Task) -> Candidate:
        if task.candidate is None:
            raise UnknownCandidate(f"task {task.name} has no candidate")
        return task.candidate

    def _check_nominated(self, task: Task, candidate: Candidate) -> None:
        """
        Raises:
            UnknownTask, UnknownVersion, BadAdapter, Conflict
        """
        number, standing = candidate.version, task.candidate
        version = self._version(task, number)
        active = task.versions[self._version(task, None).number]
        if number == active.number:
            raise Conflict(f"version {number} is the active one of task {task.name} already")
        if standing is not None and standing.version != number:
            raise Conflict(
                f"version {standing.version} is the candidate of task {task.name}; promote or abandon it first"
            )
        check_alike(task.name, active, version)

    def _proved(self, name: str, version: Version) -> tuple[Version, Resident]:
        """A version of the store in memory; one that was never proved is proved first.

        Raises:
            UnknownVersion, BadStore, BadAdapter, Overloaded, EngineFault
        """
        if version.proof is not None:
            return version, self._bank.get(name, version.number) or self._loader.load(name, version)
        whole = self._loader.judge_stored(name, version.number)
        return replace(whole.version, proof=self._prove(whole)), whole.resident

    def _served(self, name: str) -> bool:
        task = self._tasks[name]
        active = task.versions.get(task.active) if task.active is not None else None
        return active is not None and active.problem is None

    def _prove(self, whole: Whole) -> Proof:
        return self._prover.prove(whole.resident, whole.sealed, [*self._bank][::-1])

    def _keep(self, task: Task, data: bytes, whole: Whole, proof: Proof, activate: bool, by: str) -> Version:
        """A new version: file first, then the state that names it; a failure in between leaves the old state."""
        if activate:
            task.activated(whole.version)  # or it is refused, before anything is written
        # Without a state the new file, being the highest, would be served from its first moment on the disk.
        self._write_state(task)
        version = self._write(task.name, replace(whole.version, number=task.last + 1, proof=proof), data)
        kept = replace(task.having(version), last=version.number)
        after = kept.activated(version) if activate else kept
        resident = replace(whole.resident, version=version.number) if activate else None
        try:
            self._commit(after.logged("upload", by, task.active, version), resident)
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

    def _activate(self, task: Task, version: Version, resident: Resident, by: str, did: Did = "activate") -> None:
        if version.number != task.active:
            self._commit(task.activated(version).logged(did, by, task.active, version), resident)

    def _commit(self, task: Task, served: Resident | None = None) -> None:
        """The one moment of a change: the state with its log entry reaches the disk, and then memory.

        Args:
            served: the version that is active from now on, where that changes.
        """
        self._write_state(task)
        # In memory before it is active, and the old one until then: no reader finds a task without its adapter.
        if served is not None:
            self._bank.keep(task.name, served)
        self._tasks = {**self._tasks, task.name: task}
        if served is not None:
            self._bank.serve(task.name, served)

    def _write_state(self, task: Task) -> None:
        self._store.write_state(
            task.name, State(active=task.active, candidate=task.candidate, last=task.last, log=task.log)
        )

    def _clear(self, name: str, numbers: Collection[int]) -> None:
        """Lets go of what the log now calls deleted; last, so that who loads it later sees that it has gone."""
        for number in numbers:
            self._bank.drop(name, number)
        clear(self._store, name, numbers)
