"""Tasks, their versions, and which one is served. Changes go to the store first, then to memory; those that others make
in the store are followed."""

import logging
import re
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from threading import Lock
from typing import TypeVar

from service.adapters.file import Header
from service.adapters.manifest import TASK_NAME, TASK_NAME_WORDS
from service.engine.bank import BARE_TASK, Bank, Resident, bare_resident
from service.engine.base_model import BaseModel
from service.errors import (
    BadAdapter,
    BadInput,
    BadStore,
    Conflict,
    RootstockError,
    StoreUnreachable,
    UnknownCandidate,
    UnknownTask,
    UnknownVersion,
)
from service.metrics import Metrics
from service.registry.following import clear, listed, read_task
from service.registry.loader import Loader, Whole, refused
from service.registry.log import PART, Did, Log
from service.registry.proof import Proof, Prover, Run
from service.registry.release import Candidate, Standing
from service.registry.store import Changed, Found, Kept, Store
from service.registry.versions import Behind, Task, Version

T = TypeVar("T")

TRIES = 20  # at a change that others' changes overtake

log = logging.getLogger(__name__)


@dataclass
class Upload:
    """A file that was judged and proved, on its way into the store."""

    data: bytes
    version: Version
    resident: Resident
    number: int | None = None  # under which its file is there
    spare: int | None = None  # the same of a file that is not needed: the task has these bytes already


class Registry:
    def __init__(self, base: BaseModel, store: Store, bank: Bank, metrics: Metrics, run: Run) -> None:
        """`run` is what uploads are proved by; nothing else here needs the engine."""
        self._store = store
        self._prover = Prover(base, run)
        self._loader = Loader(base, store)
        self._bank = bank
        self._bare = bare_resident(base)
        self._tasks: dict[str, Task] = {}
        self._changing = Lock()  # one change at a time; reads take no lock
        self._seen: dict[str, Found] = {}  # of each task, what the listing showed that was last followed
        self._following = Lock()  # before `_changing`, where both are held
        self._metrics = metrics
        metrics.tasks.set_function(lambda: len(self.served()))
        metrics.refused_adapters.set_function(lambda: len(self._refused()))
        metrics.resident_adapters.set_function(lambda: len(list(bank)))
        metrics.resident_bytes.set_function(lambda: sum(resident.bytes for resident in bank))
        metrics.adapter_parameters.set_function(lambda: sum(version.parameters for version in self.served()))
        metrics.store_free_bytes.set_function(store.free_bytes)
        metrics.tasks_behind.set_function(lambda: sum(task.behind is not None for task in self._tasks.values()))

    def open(self) -> None:
        """Loads what is active while there is room, pinned tasks first, and the headers of the rest.

        Raises:
            BadStore
        """
        self._seen = listed(self._store)
        for name in sorted(self._seen, key=lambda name: (not self._bank.pins(name), name)):
            task = read_task(self._store, self._loader, self._seen[name], Task(name))
            self._tasks[name] = self._opened(task)
        self._metrics.store_followed.set_to_current_time()

    def follow(self) -> None:
        """Takes over what others have changed in the store since the last time, beside what is being answered.

        What cannot be served leaves its task with the version that it has; rows in flight keep theirs in any case.

        Raises:
            StoreUnreachable, BadStore: nothing more is known of the store; what is served stays.
        """
        with self._following:
            found = listed(self._store)
            for name in sorted(found.keys() | self._tasks.keys()):
                if found.get(name) != self._seen.get(name):
                    self._catch_up(name, found.get(name))
            self._metrics.store_followed.set_to_current_time()

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
        return _check_known(self._tasks.get(name, Task(name)))

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
        upload = Upload(data, replace(whole.version, proof=proof), whole.resident)
        try:
            kept = self._change(name, lambda task: self._keep(task, upload, activate, by))
        except StoreUnreachable:
            raise  # its state may be there, so its file stays
        except (BadStore, Conflict):
            if upload.number is not None:
                self._take_back(name, upload.number)
            raise
        if upload.spare is not None:
            self._take_back(name, upload.spare)
        return kept

    def activate(self, name: str, number: int, by: str = "-") -> Version:
        """Serves another version from the next request on; one that was never proved is proved first.

        Raises:
            UnknownTask, UnknownVersion, BadAdapter, BadStore, Overloaded, EngineFault
            Conflict: the task has a candidate of another kind.
        """
        version = self._version(self._latest(name, number), number)
        version, resident = self._readied(name, version)

        def activated(task: Task) -> Version:
            self._version(task, number)  # still there
            self._activate(task, version, resident, by)
            return version

        return self._change(name, activated)

    def nominate(self, name: str, candidate: Candidate, by: str = "-") -> Task:
        """Has a version stand beside the active one, or changes the mode and share of the one that does.

        Raises:
            UnknownTask, UnknownVersion, BadAdapter, BadStore, Overloaded, EngineFault
            Conflict: it is the active one, another one is the candidate, or it is of another kind.
        """
        task = self._latest(name, candidate.version)
        version = self._version(task, candidate.version)
        self._version(task, None)  # beside which it is to stand
        task.nominated(version, candidate)  # or it is refused, before it is proved
        version, resident = self._readied(name, version)

        def nominated(task: Task) -> Task:
            self._version(task, None)
            self._version(task, candidate.version)
            after = task.nominated(version, candidate)
            if task.candidate != candidate:
                self._commit(after.logged("nominate", by, task.active, version))
                self._bank.keep(name, resident)
            else:
                self._confirm(task)
            return self.task(name)

        return self._change(name, nominated)

    def promote(self, name: str, by: str = "-") -> Version:
        """Makes the candidate the active version.

        Raises:
            UnknownTask, UnknownCandidate, UnknownVersion, BadAdapter, BadStore, Overloaded, EngineFault
            Conflict: the candidate is another by now.
        """
        task = self._latest(name)
        version, resident = self._readied(name, self._version(task, task.trying().version))

        def promoted(task: Task) -> Version:
            if task.trying().version != version.number:
                raise Conflict(f"task {name} has another candidate by now")
            self._activate(task, version, resident, by, "promote")
            return version

        return self._change(name, promoted)

    def abandon(self, name: str, by: str = "-") -> None:
        """Ends a release: the active version answers as before, and the candidate stays as an inactive one.

        Raises:
            UnknownTask, UnknownCandidate, BadStore
        """

        def abandoned(task: Task) -> None:
            version = task.versions[task.trying().version]
            self._commit(replace(task, candidate=None).logged("abandon", by, task.active, version))

        self._latest(name)
        self._change(name, abandoned)

    def retire(self, name: str, by: str = "-") -> None:
        """Serves the task no more and removes its files; its version numbers stay used.

        Raises:
            UnknownTask, BadStore
        """

        def retired(task: Task) -> None:
            _check_known(task)
            if not task.versions:
                return self._confirm(task)
            after = replace(task, active=None, candidate=None, behind=None).without(*task.versions)
            after = after.logged("retire", by, task.active)
            for version in task.versions.values():
                after = after.logged("delete", by, None, version)
            self._commit(after)
            self._clear(name, task.versions)
            return None

        self._catch_up_now(name)  # so that files go which nobody spoke of yet
        self._change(name, retired)

    def delete(self, name: str, number: int, by: str = "-") -> None:
        """Removes one version that is neither active nor the candidate.

        Raises:
            UnknownTask, UnknownVersion, Conflict, BadStore
        """

        def deleted(task: Task) -> None:
            _check_known(task)
            if number not in task.versions:
                raise UnknownVersion(f"task {name} has no version {number}")
            if number in (task.active, task.serving):
                raise Conflict(
                    f"version {number} is the active one of task {name}; activate another, or retire the task"
                )
            if task.candidate is not None and number == task.candidate.version:
                raise Conflict(f"version {number} is the candidate of task {name}; promote or abandon it first")
            self._commit(task.without(number).logged("delete", by, task.active, task.versions[number]))
            self._clear(name, [number])

        self._change(name, deleted)

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
        serving = self.task(name).serving == number
        (self._bank.serve if serving else self._bank.keep)(name, resident)
        if number not in self.task(name).versions:  # deleted while it was read
            self._bank.drop(name, number)
        return resident

    def _refuse(self, name: str, number: int, problem: str) -> None:
        task = self._tasks.get(name)
        if task is not None and number in task.versions:
            behind = Behind(None, problem) if task.serving == number else task.behind
            task = replace(task.having(refused(name, task.versions[number], problem)), behind=behind)
            self._tasks = {**self._tasks, name: task}

    def _version(self, task: Task, number: int | None) -> Version:
        serving = task.active if task.serving is None else task.serving
        wanted = serving if number is None else number
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

    def _served(self, name: str) -> bool:
        task = self._tasks[name]
        version = task.versions.get(task.serving) if task.serving is not None else None
        return version is not None and version.problem is None

    def _prove(self, whole: Whole) -> Proof:
        return self._prover.prove(whole.resident, whole.sealed, [*self._bank][::-1])

    def _readied(self, name: str, version: Version) -> tuple[Version, Resident]:
        """A version of the store in memory, proved if it never was.

        Raises:
            UnknownVersion, BadAdapter, BadStore, Overloaded, EngineFault
        """
        if version.proof is not None:
            held = self._bank.get(name, version.number)
            same = held is not None and held.digest == version.digest
            return version, held if held is not None and same else self._loader.load(name, version)
        whole = self._loader.judge_stored(name, version.number)
        return replace(whole.version, proof=self._prove(whole)), whole.resident

    def _change(self, name: str, change: Callable[[Task], T]) -> T:
        """Makes a change to the task as it is; one that others have overtaken anew, to what they made of it. So is one
        that contradicts what is known here of the task, which may be old.

        Raises:
            Conflict: others overtake it again and again.
        """
        for attempt in range(TRIES):
            try:
                with self._changing, suppress(Changed):
                    return change(self._tasks.get(name, Task(name)))
            except (UnknownTask, UnknownVersion, UnknownCandidate, Conflict):
                if attempt:
                    raise
            self._catch_up_now(name)
        raise Conflict(f"task {name} is being changed by others at once; nothing came of this change")

    def _keep(self, task: Task, upload: Upload, activate: bool, by: str) -> tuple[Version, bool]:
        """A new version: file first, then the state that names it; a failure in between leaves the old state."""
        known = task.known(upload.version.digest)
        if known is not None and (known.number != upload.number or task.has_logged("upload", known.number)):
            if upload.number != known.number:
                upload.spare = upload.number
            upload.number = None  # not ours
            if activate:
                known = replace(known, proof=upload.version.proof)
                self._activate(task, known, replace(upload.resident, version=known.number), by)
            else:
                self._confirm(task)
            return known, False
        if activate:
            task.activated(upload.version)  # or it is refused, before anything is written
        if task.kept is None:
            # Without a state the new file, being the highest, would be served from its first moment in the store.
            task = self._written(task)
        if upload.number not in task.versions:
            task = self._write(task, upload)
        version = upload.version
        task, before = replace(task.having(version), last=max(task.last, version.number)), task.active
        after = task.activated(version) if activate else task
        resident = replace(upload.resident, version=version.number) if activate else None
        self._commit(after.logged("upload", by, before, version), resident)
        return version, True

    def _take_back(self, name: str, number: int) -> None:
        """Removes the file of an upload that came to nothing, and its number where another's change has named it."""

        def forgotten(task: Task) -> None:
            if number in task.named:
                self._commit(task.without(number))
            elif number in task.versions:
                last = number - 1 if number == task.last else task.last
                self._tasks = {**self._tasks, name: replace(task.without(number), last=last)}

        try:
            self._latest(name)
            self._change(name, forgotten)
        except RootstockError as error:  # who reads the task next finds a version without a file
            log.error("task %s: version %d came to nothing, but may still be named: %s", name, number, error.detail)
        clear(self._store, name, [number])

    def _write(self, task: Task, upload: Upload) -> Task:
        """Writes an upload's file under the first free number.

        Returns:
            the task with what was there already: files copied into the store, or others' uploads under way
        """
        for number in count(task.last + 1):
            try:
                tag = self._store.write(task.name, number, upload.data)
            except FileExistsError:
                log.warning("task %s: version %d is there already; taking the next number", task.name, number)
                task = task.having(self._loader.examine(task.name, number))
            else:
                upload.version, upload.number = replace(upload.version, number=number, tag=tag), number
                break
        return task

    def _activate(self, task: Task, version: Version, resident: Resident, by: str, did: Did = "activate") -> None:
        after = task.activated(version)
        if version.number != task.active:
            self._commit(after.logged(did, by, task.active, version), resident)
            return
        self._confirm(task)
        if task.behind is not None:
            self._install(after, resident)

    def _confirm(self, task: Task) -> None:
        """Makes sure that what needs no change is so in the store as well.

        Raises:
            Changed, BadStore
        """
        if not self._is_current(task):
            raise Changed

    def _commit(self, task: Task, served: Resident | None = None) -> None:
        """The one moment of a change: the state with its log entry reaches the store, and then memory.

        Args:
            served: the version that is active from now on, where that changes.

        Raises:
            Changed, BadStore
        """
        self._install(self._written(task), served)

    def _written(self, task: Task) -> Task:
        """The task with its state in the store.

        Raises:
            Changed, BadStore
        """
        if len(task.log) >= 2 * PART:
            self._store.archive(task.name, task.earlier + 1, task.log[:PART])
            task = replace(task, earlier=task.earlier + PART, log=task.log[PART:])
        before = task.kept.tag if task.kept is not None else None
        return replace(task, kept=Kept(task.state, self._store.write_state(task.name, task.state, before)))

    def _install(self, task: Task, served: Resident | None) -> None:
        # In memory before it is active, and the old one until then: no reader finds a task without its adapter.
        if served is not None:
            self._bank.keep(task.name, served)
        self._tasks = {**self._tasks, task.name: task}
        if served is not None:
            self._bank.serve(task.name, served)

    def _clear(self, name: str, numbers: Collection[int]) -> None:
        """Lets go of what is deleted; last, so that who loads it later sees that it has gone."""
        for number in numbers:
            self._bank.drop(name, number)
        clear(self._store, name, numbers)

    def _opened(self, task: Task) -> Task:
        """The task with its active version in memory, where there is room."""
        version = task.versions.get(task.active or 0)
        if version is not None and version.problem is None and not self._bank.full:
            try:
                self._bank.serve(task.name, self._loader.load(task.name, version))
            except StoreUnreachable as error:  # it is read when it is asked for
                log.warning("task %s is not in memory yet: %s", task.name, error.detail)
            except (BadAdapter, BadStore) as error:
                version = refused(task.name, version, error.detail)
        if version is not None and version.problem is not None:
            return replace(task.having(version), behind=Behind(None, version.problem))
        return task

    def _latest(self, name: str, number: int | None = None) -> Task:
        """A task that is to be changed, as the store has it: what is refused is not refused for an old view of it.

        Raises:
            UnknownTask, BadStore
        """
        task = self._tasks.get(name)
        if task is None or (number is not None and number not in task.versions) or not self._is_current(task):
            self._catch_up_now(name)
        return self.task(name)

    def _is_current(self, task: Task) -> bool:
        """Whether the task's state in the store is the one that is known here."""
        kept = self._store.state(task.name)
        return (kept and kept.tag) == (task.kept and task.kept.tag)

    def _catch_up_now(self, name: str) -> None:
        with self._following:
            while not self._catch_up(name, listed(self._store).get(name)):
                pass  # each time, a change of ours has been made

    def _catch_up(self, name: str, found: Found | None) -> bool:
        """Takes over one task as the store has it now.

        Returns:
            whether it was: not where a change of ours came between

        Raises:
            BadStore
        """
        known = self._tasks.get(name)
        before = known or Task(name)
        task = read_task(self._store, self._loader, found or Found(), before)
        task, resident, settled = self._successor(before, task)
        with self._changing:
            if self._tasks.get(name) is not known:
                return False
            self._install(task, resident)
        for number in before.versions.keys() - task.versions.keys():
            self._bank.drop(name, number)
        if settled and found is not None:
            self._seen[name] = found
        else:
            self._seen.pop(name, None)
        return True

    def _successor(self, before: Task, task: Task) -> tuple[Task, Resident | None, bool]:
        """Readies the active version of a task that has changed in the store.

        Returns:
            (the task, with the reason if another version goes on answering; what is to be served from now on, where
            that changes; whether nothing is to be tried again)
        """
        version = task.versions.get(task.active or 0)
        if version is None or task.behind is not None:
            return task, None, True
        old = before.versions.get(before.serving or 0)
        if old is not None and (old.number, old.digest, old.problem) == (version.number, version.digest, None):
            return task, None, True
        settled, reason = True, version.problem
        if reason is None:
            try:
                version, resident = self._readied(task.name, version)
                return task.having(version), resident, True
            except BadAdapter as error:
                version, reason = refused(task.name, version, error.detail), error.detail
            except RootstockError as error:  # of the store or of the engine: it may pass
                settled, reason = False, error.detail
        serving = before.serving if before.serving in task.versions and before.serving != version.number else None
        return replace(task.having(version), behind=Behind(serving, reason)), None, settled


def _check_known(task: Task) -> Task:
    if not task.last:  # it never was, or its first upload was cut short
        raise UnknownTask(f"there is no task {task.name!r}")
    return task
