"""What the store holds: each task as its files and its state tell it, at the start and whenever they have changed."""

import logging
from collections.abc import Iterable
from dataclasses import replace

from service.engine.bank import BARE_TASK
from service.errors import BadStore
from service.registry.loader import Loader
from service.registry.store import Found, State, Store
from service.registry.versions import Behind, Task, Version

log = logging.getLogger(__name__)


def read_task(store: Store, loader: Loader, found: Found, known: Task) -> Task:
    """The task as the store has it now.

    A version that cannot be served is logged and refused; it keeps no other from being served. Where the state cannot
    be read, the task stays as it was; or its files are refused, since nobody knows which of them is active.

    Args:
        found: what a listing shows of it; what has the same tag in `known` is not read again.

    Raises:
        StoreUnreachable
    """
    same = known.kept is not None and known.kept.tag == found.state
    kept = known.kept if same else store.state(known.name)
    highest = max(found.versions, default=0)
    state = kept.state if kept is not None else State(active=highest or None, last=highest)
    if isinstance(state, BadStore):
        log.error("%s; task %s is not followed", state.detail, known.name)
        if known.versions:
            return replace(known, kept=kept, behind=Behind(known.serving, state.detail))
        # Without tags: they are looked at again once the state can be read.
        files = {number: replace(loader.examine(known.name, number), tag="") for number in found.versions}
        files = {number: version.refused(state.detail) for number, version in files.items()}
        return Task(known.name, files, last=highest, kept=kept, behind=Behind(None, state.detail))
    _clear_leftovers(store, known.name, found, state)
    versions = _versions(loader, found, known, state)
    last = max([state.last, *versions])
    return Task(known.name, versions, state.active, state.candidate, last, state.log, state.earlier, kept)


def listed(store: Store) -> dict[str, Found]:
    """What the store has of each task that may be served from it."""
    found = store.list()
    if found.pop(BARE_TASK, None):
        log.debug("the store's files of task %s are not served: the bare base answers it", BARE_TASK)
    return found


def clear(store: Store, name: str, numbers: Iterable[int]) -> None:
    """Removes the files of versions that are deleted. Where that fails, who reads the task next tries again."""
    for number in numbers:
        try:
            store.remove(name, number)
        except BadStore as error:
            log.error("task %s version %d is deleted, but its file is still there: %s", name, number, error.detail)


def _versions(loader: Loader, found: Found, known: Task, state: State) -> dict[int, Version]:
    """Those that the state names, in the store or not, and files that it does not know of."""
    given, candidate = state.versions or {}, state.candidate.version if state.candidate is not None else None
    named = [number for number in (state.active, candidate) if number is not None]
    unknown = [number for number in found.versions if state.versions is None or number > state.last]
    versions = dict[int, Version]()
    for number in sorted({*given, *named, *unknown}):
        version = known.versions.get(number)
        if version is None or not version.tag or version.tag != found.versions.get(number):
            version = loader.examine(known.name, number, given[number].digest or None if number in given else None)
        if number in given and given[number].digest == version.digest:
            version = replace(version, proof=given[number].proof)
        versions[number] = version
    return versions


def _clear_leftovers(store: Store, name: str, found: Found, state: State) -> None:
    """A deletion was cut short, or an upload that somebody else's overtook."""
    if state.versions is not None:
        clear(store, name, [n for n in found.versions if n <= state.last and n not in state.versions])
