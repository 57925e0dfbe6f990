"""A folder as the store: durable, shared by those who ask, and what failed has left no trace."""

import os
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path
from shutil import rmtree
from subprocess import PIPE, Popen
from threading import Barrier, Thread

import pytest

from service.adapters.file import digest
from service.errors import BadStore, UnknownVersion
from service.registry.folder import LOCK, TEMPORARY, FolderStore
from service.registry.store import Changed, State
from tests.registry.disks import FULL, Killed, listing, trouble


def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    FolderStore(tmp_path / "deep" / "store").write("toy", 1, b"one")
    assert listing(tmp_path / "deep" / "store") == {"toy-1.safetensors": b"one"}


def test_leftovers_of_an_interrupted_write_are_cleared(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write("toy", 1, b"one")
    with trouble(1, Killed()), pytest.raises(Killed):
        store.write("toy", 2, b"two")
    assert len(listing(tmp_path)) == 2
    store.close()
    FolderStore(tmp_path)
    assert listing(tmp_path) == {"toy-1.safetensors": b"one"}


@pytest.mark.parametrize(
    "name",
    [
        *("README.md", "toy.safetensors", "toy-0.safetensors", "toy-01.safetensors", "toy-1.safetensors.part"),
        *("Toy-1.safetensors", "toy-x.safetensors", ".toy-1.safetensors", "-1.safetensors", "toy-1.bin"),
        *("._toy.json", "Notes.json", "two words.json", ".json"),
    ],
)
def test_foreign_files_are_ignored_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    assert FolderStore(tmp_path).list() == {}
    assert listing(tmp_path) == {name: b"mine"}


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    (tmp_path / "toy-3.safetensors").mkdir()
    for look in (store.read, store.look):
        with pytest.raises(BadStore, match=r"toy-3\.safetensors cannot be read: Is a directory"):
            look("toy", 3)
        with pytest.raises(UnknownVersion, match="task toy has no version 4: its file is missing"):
            look("toy", 4)


def test_a_file_is_looked_at_by_its_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.registry.folder.HEAD_BYTES", 3)
    store = FolderStore(tmp_path)
    store.write("toy", 1, b"content")
    assert store.look("toy", 1)[:3] == (digest(b"content"), 7, b"con")


def test_a_state_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "toy.json").mkdir()
    kept = FolderStore(tmp_path).state("toy")
    assert kept is not None
    assert isinstance(kept.state, BadStore)
    assert kept.state.detail == "store: toy.json cannot be read: Is a directory"


def test_leftovers_are_left_alone_while_others_may_be_writing_them(tmp_path: Path) -> None:
    others = [FolderStore(tmp_path), FolderStore(tmp_path)]
    (tmp_path / f"{TEMPORARY}1").write_bytes(b"half")
    FolderStore(tmp_path).close()
    assert listing(tmp_path) == {f"{TEMPORARY}1": b"half"}
    others[0].close()
    others[0].close()
    FolderStore(tmp_path).close()
    assert listing(tmp_path) == {f"{TEMPORARY}1": b"half"}
    del others
    FolderStore(tmp_path)
    assert listing(tmp_path) == {}


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "from service.registry.folder import *; "
        f"store = FolderStore(Path({str(tmp_path)!r})); store._changing().__enter__(); print('open'); input()"
    )
    (tmp_path / f"{TEMPORARY}1").write_bytes(b"half")
    with Popen([sys.executable, "-W", "ignore", "-c", code], stdin=PIPE, stdout=PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline()
            (tmp_path / f"{TEMPORARY}2").write_bytes(b"half")
            FolderStore(tmp_path).close()
            assert list(listing(tmp_path)) == [f"{TEMPORARY}2"]
        finally:
            process.kill()
    store = FolderStore(tmp_path)
    assert listing(tmp_path) == {}
    store.write_state("toy", State(active=None, last=0), None)


def test_a_state_is_replaced_by_one_service_at_a_time(tmp_path: Path) -> None:
    writers = [FolderStore(tmp_path) for _ in range(4)]
    tag = writers[0].write_state("toy", State(active=None, last=0), None)
    for number in range(1, 30):
        start, won = Barrier(len(writers)), list[str]()

        def write(store: FolderStore, number: int, before: str, start: Barrier, won: list[str]) -> None:
            start.wait(30)
            with suppress(Changed):
                won.append(store.write_state("toy", State(active=None, last=number), before))

        threads = [Thread(target=write, args=(store, number, tag, start, won)) for store in writers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [tag] = won


def test_a_folder_that_is_read_only_is_locked_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FolderStore(tmp_path).write("toy", 1, b"one")
    (tmp_path / LOCK).unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert FolderStore(tmp_path).read("toy", 1) == b"one"
    assert not (tmp_path / LOCK).exists()


def test_a_disk_without_locks_is_warned_of_and_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    FolderStore(tmp_path).write("toy", 1, b"one")
    with trouble(0, FULL):
        store = FolderStore(tmp_path)
    assert store.read("toy", 1) == b"one"
    store.write_state("toy", State(active=1, last=1), None)
    assert "cannot be locked: No space left on device" in caplog.text


@pytest.mark.parametrize("below", [".", "store"])
def test_a_store_that_is_no_folder_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(BadStore, match="file"):
        FolderStore(tmp_path / "file" / below)


def test_a_folder_that_has_gone_is_an_error(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    rmtree(tmp_path / "store")
    with pytest.raises(BadStore, match="No such file"):
        store.list()
    with pytest.raises(BadStore, match=r"toy-1\.safetensors cannot be written: No such file"):
        store.write("toy", 1, b"one")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_still_serves(tmp_path: Path) -> None:
    FolderStore(tmp_path).write("toy", 1, b"one")
    tmp_path.chmod(0o500)
    store = FolderStore(tmp_path)
    assert store.read("toy", 1) == b"one"
    with pytest.raises(BadStore, match="cannot be written"):
        store.write("toy", 2, b"two")
    tmp_path.chmod(0o700)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    with trouble(1, FULL), pytest.raises(BadStore, match=r"toy-1\.safetensors cannot be written: No space left"):
        store.write("toy", 1, b"one")


@pytest.mark.parametrize("change", ["write", "state", "new state", "part of a log", "remove"])
def test_a_change_that_fails_at_any_step_leaves_every_name_and_byte(tmp_path: Path, change: str) -> None:
    changes = {
        "write": lambda store: store.write("toy", 2, b"two"),
        "state": lambda store: store.write_state("toy", State(active=None, last=1), store.list()["toy"].state),
        "new state": lambda store: store.write_state("spam", State(active=None, last=1), None),
        "part of a log": lambda store: store.archive("toy", 1, ()),
        "remove": lambda store: store.remove("toy", 1),
    }
    store = FolderStore(tmp_path)
    store.write("toy", 1, b"one")
    store.write_state("toy", State(active=1, last=1), None)
    before = listing(tmp_path)
    for step in count():
        with trouble(step, FULL):
            try:
                changes[change](store)
            except BadStore:
                assert listing(tmp_path) == before
            else:
                break
    assert step >= 3
    assert listing(tmp_path) != before
