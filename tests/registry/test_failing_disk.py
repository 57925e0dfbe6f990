"""A change is done on disk and in memory or, whatever step fails, on neither."""

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from service.engine.bank import Bank
from service.engine.base_model import BaseModel
from service.engine.engine import Engine
from service.errors import BadStore
from service.metrics import Metrics
from service.registry.folder import FolderStore
from service.registry.registry import Registry
from service.registry.store import State
from tests.registry.disks import FULL, held, served, trouble

Reopen = Callable[[], Registry]

CHANGES: dict[str, Callable[[Registry, list[bytes]], object]] = {
    "upload": lambda registry, files: registry.upload("toy", files[3]),
    "upload, not active": lambda registry, files: registry.upload("toy", files[3], activate=False),
    "upload of a new task": lambda registry, files: registry.upload("new", files[3]),
    "upload of a new task, not active": lambda registry, files: registry.upload("new", files[3], activate=False),
    "upload of a retired task": lambda registry, files: registry.upload("old", files[3]),
    "upload of a copied task": lambda registry, files: registry.upload("copied", files[3]),
    "upload of known bytes": lambda registry, files: registry.upload("toy", files[0]),
    "activate": lambda registry, files: registry.activate("toy", 1),
    "delete": lambda registry, files: registry.delete("toy", 1),
    "delete of a copied version": lambda registry, files: registry.delete("copied", 1),
    "retire": lambda registry, files: registry.retire("toy"),
}


@pytest.fixture
def lived_in(registry: Registry, reopen: Reopen, files: list[bytes], tmp_path: Path) -> Registry:
    """A store with a bit of everything."""
    for data in files[:3]:
        registry.upload("toy", data)
    registry.upload("old", files[0])
    registry.retire("old")
    for number in (1, 2):
        (tmp_path / f"copied-{number}.safetensors").write_bytes(files[number])
    return reopen()


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_fails_at_any_step_changes_nothing_and_can_be_repeated(
    lived_in: Registry, reopen: Reopen, files: list[bytes], change: str
) -> None:
    before = state(lived_in)
    for step in count():
        with trouble(step, FULL):
            try:
                CHANGES[change](lived_in, files)
            except BadStore:
                assert state(lived_in) == state(reopen()) == before
            else:
                break
    assert step >= 5
    assert state(lived_in) == state(reopen()) != before


@pytest.mark.parametrize("change", ["delete", "retire"])
def test_files_that_cannot_be_removed_are_gone_all_the_same_and_removed_by_the_next_opening(
    lived_in: Registry, reopen: Reopen, files: list[bytes], tmp_path: Path, change: str
) -> None:
    left_behind = 0
    for step in count():
        lived_in.upload("toy", files[3])
        number = lived_in.upload("toy", files[4], activate=False)[0].number
        gone = {number} if change == "delete" else {*lived_in.task("toy").versions}
        with trouble(step, FULL) as disk, suppress(BadStore):
            lived_in.retire("toy") if change == "retire" else lived_in.delete("toy", number)
            left_behind += any((tmp_path / f"toy-{one}.safetensors").exists() for one in gone)
            assert not gone & {*lived_in.task("toy").versions}
            assert state(lived_in) == state(reopen())
            assert not any((tmp_path / f"toy-{one}.safetensors").exists() for one in gone)
        lived_in.retire("toy")
        if not disk.failed:
            break
    assert left_behind >= 1


def state(registry: Registry) -> tuple[object, object]:
    return served(registry), held(registry, "toy", "new", "old", "copied")


class DeadStore(FolderStore):
    """Writes and removes nothing any more, from the step numbered `fails_from` on."""

    fails_from = 10**9

    def _step(self) -> None:
        self.fails_from -= 1
        if self.fails_from < 0:
            raise BadStore("the disk is gone")

    def write(self, task: str, version: int, data: bytes) -> str:
        self._step()
        return super().write(task, version, data)

    def write_state(self, task: str, state: State, before: str | None) -> str:
        self._step()
        return super().write_state(task, state, before)

    def remove(self, task: str, version: int) -> None:
        self._step()
        super().remove(task, version)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("step", range(4))
def test_a_disk_that_stays_dead_leaves_the_same_served_by_memory_and_by_disk(
    lived_in: Registry, tiny_base: BaseModel, reopen: Reopen, files: list[bytes], tmp_path: Path, change: str, step: int
) -> None:
    store = DeadStore(tmp_path)
    store.close()
    registry = Registry(tiny_base, store, Bank(), Metrics(), Engine(tiny_base).run)
    registry.open()
    before = served(registry)
    store.fails_from = step
    try:
        CHANGES[change](registry, files)
    except BadStore:
        assert served(registry) == before
    assert served(registry) == served(reopen())
