"""What a store's folder holds when a service starts: each task as its files, its state and its log tell it."""

import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from service.engine.bank import BARE_TASK, Bank
from service.errors import BadAdapter, BadStore
from service.registry.loader import Loader, refused
from service.registry.log import deleted, proofs
from service.registry.store import FolderStore, State
from service.registry.versions import Task, Version

log = logging.getLogger(__name__)


def found_tasks(store: FolderStore, loader: Loader, bank: Bank) -> Iterator[Task]:
    """The store's tasks; active versions are taken into the bank while it has room, pinned ones first.

    A bad file or state is logged and refused; it keeps no other from being served.
    """
    states = store.states()
    found = store.versions()
    for name in sorted(found.keys() | states.keys(), key=lambda name: (not bank.pins(name), name)):
        if name == BARE_TASK:
            log.error("the store's files of task %s are not served: the bare base answers it", name)
            continue
        numbers = found.get(name, [])
        state = states.get(name) or State(active=numbers[-1], last=numbers[-1])
        if isinstance(state, BadStore):
            log.error("%s; files of task %s are not served", state.detail, name)
            task = _unknown_state(name, numbers, state.detail, loader)
        else:
            clear(store, name, deleted(state.log) & {*numbers})  # a deletion was cut short
            task = _task(name, numbers, state, loader, bank)
        if task.last:  # else its first upload was cut short
            yield task


def clear(store: FolderStore, name: str, numbers: Iterable[int]) -> None:
    """Removes the files of versions that the log calls deleted. Where that fails, the next opening tries again."""
    for number in numbers:
        try:
            store.remove(name, number)
        except BadStore as error:
            log.error("task %s version %d is deleted, but its file is still there: %s", name, number, error.detail)


def _task(name: str, numbers: Collection[int], state: State, loader: Loader, bank: Bank) -> Task:
    """The state may name a version that is not there."""
    candidate = state.candidate.version if state.candidate is not None else None
    named = {number for number in (state.active, candidate) if number is not None}
    proved, versions = proofs(state.log), dict[int, Version]()
    for number in sorted({*numbers, *named} - deleted(state.log)):
        version = _examine(name, number, loader, bank if number == state.active else None)
        versions[number] = replace(version, proof=proved.get((number, version.digest)))
    return Task(name, versions, state.active, state.candidate, max([state.last, *versions]), state.log)


def _unknown_state(name: str, numbers: Collection[int], problem: str, loader: Loader) -> Task:
    """Files of which nobody knows which one was active."""
    found = {number: _examine(name, number, loader, None).refused(problem) for number in numbers}
    return Task(name, found, last=max(numbers, default=0))


def _examine(name: str, number: int, loader: Loader, bank: Bank | None) -> Version:
    """Judges one file of the store, and takes it into the bank if it is to be served."""
    version = loader.examine(name, number)
    if bank is not None and version.problem is None and not bank.full:
        try:
            bank.serve(name, loader.load(name, version))
        except (BadAdapter, BadStore) as error:
            return refused(name, version, error.detail)
    return version
