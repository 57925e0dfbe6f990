"""The store: what was written is there, and what failed has left no trace."""

import os
import re
import sys
from itertools import count
from pathlib import Path
from shutil import rmtree
from subprocess import PIPE, Popen

import pytest

from service.adapters.file import digest
from service.errors import BadStore, UnknownVersion
from service.registry.store import FolderStore, State
from tests.registry.disks import FULL, Killed, listing, trouble


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write("toy", 1, b"one")
    store.write("toy", 12, b"twelve")
    store.write("spam-filter", 1, b"")
    store.write_state("toy", State(active=12, last=13))
    store.close()
    again = FolderStore(tmp_path)
    assert again.versions() == {"spam-filter": [1], "toy": [1, 12]}
    assert [again.read("toy", 12), again.read("spam-filter", 1)] == [b"twelve", b""]
    assert again.states() == {"toy": State(active=12, last=13)}


def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    FolderStore(tmp_path / "deep" / "store").write("toy", 1, b"one")
    assert listing(tmp_path / "deep" / "store") == {"toy-1.safetensors": b"one"}


def test_what_is_removed_is_gone_and_may_be_removed_again(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write("toy", 1, b"one")
    store.write("toy", 2, b"two")
    store.remove("toy", 1)
    store.remove("toy", 1)
    assert listing(tmp_path) == {"toy-2.safetensors": b"two"}


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
    store = FolderStore(tmp_path)
    assert (store.versions(), store.states()) == ({}, {})
    assert listing(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"\xff", b"[]", b'{"active": 1}', b'{"active": "x", "last": 1}', b'{"last": 1, "next": 2}'),
        *(b'{"active": 0, "last": 1}', b'{"active": null, "last": -1}'),
    ],
)
def test_a_damaged_state_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "toy.json").write_bytes(content)
    (tmp_path / "spam.json").write_bytes(b'{"active": 1, "last": 2}')
    states = FolderStore(tmp_path).states()
    assert states["spam"] == State(active=1, last=2)
    assert isinstance(states["toy"], BadStore)
    assert re.fullmatch(r"store: toy\.json is not a task's state: .+", states["toy"].detail)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    (tmp_path / "toy-3.safetensors").mkdir()
    for look in (store.read, store.look):
        with pytest.raises(BadStore, match=r"toy-3\.safetensors cannot be read: Is a directory"):
            look("toy", 3)
        with pytest.raises(UnknownVersion, match="task toy has no version 4: its file is missing"):
            look("toy", 4)


def test_a_file_is_looked_at_by_its_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.registry.store.HEAD_BYTES", 3)
    store = FolderStore(tmp_path)
    store.write("toy", 1, b"content")
    assert store.look("toy", 1)[:3] == (digest(b"content"), 7, b"con")


def test_a_file_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write("toy", 1, b"one")
    with pytest.raises(FileExistsError):
        store.write("toy", 1, b"two")
    assert listing(tmp_path) == {"toy-1.safetensors": b"one"}


def test_a_folder_serves_one_store_at_a_time(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    for _ in range(2):
        with pytest.raises(BadStore, match=f"store {tmp_path} is in use by another service"):
            FolderStore(tmp_path)
    store.close()
    store.close()
    again = FolderStore(tmp_path)
    del again
    FolderStore(tmp_path).write("toy", 1, b"one")


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    code = f"from service.registry.store import *; store = FolderStore(Path({str(tmp_path)!r})); print('open'); input()"
    command = [sys.executable, "-W", "ignore", "-c", code]
    with Popen(command, stdin=PIPE, stdout=PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline()
            with pytest.raises(BadStore, match="in use by another service"):
                FolderStore(tmp_path)
        finally:
            process.kill()
    FolderStore(tmp_path).write("toy", 1, b"one")


def test_a_folder_that_is_read_only_is_shared_and_locked_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FolderStore(tmp_path).write("toy", 1, b"one")
    monkeypatch.setattr(os, "access", lambda *_: False)
    stores = [FolderStore(tmp_path), FolderStore(tmp_path)]
    assert [store.read("toy", 1) for store in stores] == [b"one", b"one"]


def test_a_disk_without_locks_is_warned_of_and_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    FolderStore(tmp_path).write("toy", 1, b"one")
    with trouble(0, FULL):
        store = FolderStore(tmp_path)
    assert store.read("toy", 1) == b"one"
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
        store.versions()
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


@pytest.mark.parametrize("change", ["write", "state", "new state", "remove"])
def test_a_change_that_fails_at_any_step_leaves_every_name_and_byte(tmp_path: Path, change: str) -> None:
    changes = {
        "write": lambda store: store.write("toy", 2, b"two"),
        "state": lambda store: store.write_state("toy", State(active=None, last=1)),
        "new state": lambda store: store.write_state("spam", State(active=None, last=1)),
        "remove": lambda store: store.remove("toy", 1),
    }
    store = FolderStore(tmp_path)
    store.write("toy", 1, b"one")
    store.write_state("toy", State(active=1, last=1))
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
