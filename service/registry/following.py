"""What others change in the store is taken over, beside what is being answered."""

import logging
from dataclasses import replace
from threading import Lock

from service.engine.bank import Bank, Resident
from service.engine.base_model import BaseModel
from service.errors import BadAdapter, BadStore, RootstockError, StoreUnreachable
from service.metrics import Metrics
from service.registry.loader import Whole, refused
from service.registry.proof import Proof, Prover, Run
from service.registry.reading import listed, read_task
from service.registry.served import Served
from service.registry.store import Found, Store
from service.registry.versions import Behind, Task, Version

log = logging.getLogger(__name__)


class Follower(Served):
    """What is served, as the store has it now."""

    def __init__(self, base: BaseModel, store: Store, bank: Bank, metrics: Metrics, run: Run) -> None:
        """`run` is what uploads are proved by; nothing else here needs the engine."""
        super().__init__(base, store, bank, metrics)
        self._prover = Prover(base, run)
        self._seen: dict[str, Found] = {}  # of each task, what the listing showed that was last followed
        self._following = Lock()  # before `_changing`, where both are held

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

    def _prove(self, whole: Whole) -> Proof:
        return self._prover.prove(whole.resident, whole.sealed, self._bank.active())

    def _readied(self, name: str, version: Version) -> tuple[Version, Resident]:
        """A version of the store in memory, proved if it never was.

        Raises:
            UnknownVersion, BadAdapter, BadStore, Overloaded, EngineFault
        """
        if version.proof is not None:
            held = self._bank.get(name, version.number)
            same = held is not None and held.digest == version.digest
            return (version, held) if held is not None and same else self._loader.load(name, version)
        whole = self._loader.judge_stored(name, version.number)
        return replace(whole.version, proof=self._prove(whole)), whole.resident

    def _opened(self, task: Task) -> Task:
        """The task with its active version in memory, where there is room."""
        version = task.versions.get(task.active or 0)
        if version is not None and version.problem is None and not self._bank.full:
            try:
                version, resident = self._loader.load(task.name, version)
                task = task.having(version)
                self._bank.serve(task.name, resident)
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
        task = self._tasks.get(name, Task(name))
        known = task.last and (number is None or number in task.versions)
        if not known or not self._is_current(task):
            self._catch_up_now(name)
        return self.task(name)

    def _is_current(self, task: Task) -> bool:
        """Whether the task's state in the store is the one that is known here."""
        kept = self._store.state(task.name, task.kept)
        return (kept and kept.tag) == (task.kept and task.kept.tag)

    def _catch_up_now(self, name: str) -> None:
        with self._following:
            while not self._catch_up(name, listed(self._store).get(name)):
                pass  # each time, we have changed it

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
        for number, version in before.versions.items():
            now = task.versions.get(number)
            if now is None or (now.digest != version.digest and number != task.serving):
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
