"""Changes of tasks and their versions. They go to the store first, then to memory."""

import logging
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeVar

from service.adapters.manifest import TASK_NAME, TASK_NAME_WORDS
from service.engine.bank import BARE_TASK, Resident
from service.errors import (
    BadInput,
    BadStore,
    Conflict,
    RootstockError,
    StoreUnreachable,
    UnknownCandidate,
    UnknownTask,
    UnknownVersion,
)
from service.registry.following import Follower
from service.registry.log import PART, Did
from service.registry.reading import clear
from service.registry.release import Candidate
from service.registry.served import check_known
from service.registry.store import Changed, Kept
from service.registry.versions import Task, Version

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


class Registry(Follower):
    """Tasks, their versions, and which one is served."""

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
            self._take_back(name, upload)
            raise
        if upload.number != kept[0].number:  # the task had these bytes already
            self._take_back(name, upload)
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
            check_known(task)
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
            check_known(task)
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
        if task.known(upload.version.digest) is None:
            if activate:
                task.activated(upload.version)  # or it is refused, before anything is written
            if task.kept is None:
                # Without a state the new file, being the highest, would be served from its first moment in the store.
                task = self._written(task)
            task = self._write(task, upload)
        known = task.known(upload.version.digest)
        assert known is not None  # as `_write` leaves it
        version = replace(known, proof=upload.version.proof)
        resident = replace(upload.resident, version=version.number)
        new = known.number == upload.number and not task.has_logged("upload", known.number)
        if new:
            task, before = replace(task.having(version), last=max(task.last, version.number)), task.active
            after = task.activated(version) if activate else task
            self._commit(after.logged("upload", by, before, version), resident if activate else None)
        elif activate:
            self._activate(task, version, resident, by)
        elif known.proof is None:
            self._commit(task.having(version))  # whoever else is writing it does not take it back any more
        else:
            self._confirm(task)
        return version, new

    def _take_back(self, name: str, upload: Upload) -> None:
        """Removes the file of an upload that came to nothing, and its number where another's change has named it."""
        if (number := upload.number) is None:
            return

        def forgotten(task: Task) -> bool:
            tried = task.candidate is not None and number == task.candidate.version
            proved = number in task.versions and task.versions[number].proof is not None
            if number == task.active or tried or proved:
                return False  # somebody has made it theirs
            if number in task.named:
                self._commit(task.without(number))
                return True
            self._confirm(task)
            if number in task.versions:
                last = number - 1 if number == task.last else task.last
                self._tasks = {**self._tasks, name: replace(task.without(number), last=last)}
            return True

        try:
            if self._change(name, forgotten):
                self._store.remove(name, number)
                if not self._change(name, forgotten):  # until it was gone, they could
                    with suppress(FileExistsError):
                        self._store.write(name, number, upload.data)
        except RootstockError as error:  # who reads the task next finds a version without a file
            log.error("task %s: version %d came to nothing, but may still be named: %s", name, number, error.detail)
            clear(self._store, name, [number])

    def _write(self, task: Task, upload: Upload) -> Task:
        """Writes an upload's file under the first free number, unless its bytes lie under one that is not free.

        Returns:
            the task with that file, and with what was there already: files copied into the store, or others' uploads
            under way
        """
        for number in count(task.last + 1):
            try:
                tag = self._store.write(task.name, number, upload.data)
            except FileExistsError:
                log.warning("task %s: version %d is there already", task.name, number)
                task = replace(task.having(self._loader.examine(task.name, number)), last=number)
                if task.known(upload.version.digest) is not None:
                    break
            else:
                upload.number = number
                task = task.having(replace(upload.version, number=number, tag=tag))
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
        if task.kept is not None and isinstance(task.kept.state, BadStore) and task.serving == task.active:
            task = replace(task, behind=None)  # for no other reason than that state
        return replace(task, kept=Kept(task.state, self._store.write_state(task.name, task.state, before)))

    def _clear(self, name: str, numbers: Collection[int]) -> None:
        """Lets go of what is deleted; last, so that who loads it later sees that it has gone."""
        for number in numbers:
            self._bank.drop(name, number)
        clear(self._store, name, numbers)
