"""Files that are refused leave no trace, and files found in the folder are judged one by one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.adapters.file import digest, write_adapter
from service.adapters.manifest import BaseIdentity
from service.adapters.methods import Head
from service.engine.bank import BARE_TASK
from service.engine.base_model import BaseModel
from service.errors import BadAdapter, BadStore, Conflict, UnknownVersion
from service.registry.registry import Registry
from tests.registry.disks import listing, served
from tests.tiny import make_adapter, make_manifest, make_tensors

Reopen = Callable[[], Registry]


def test_the_bare_base_answers_its_task_and_takes_no_adapter(registry: Registry, files: list[bytes]) -> None:
    with pytest.raises(Conflict, match="embedding is answered by the bare base"):
        registry.upload(BARE_TASK, files[0])
    assert registry.resident(BARE_TASK) is registry.resident(BARE_TASK, 0) is registry.bare
    with pytest.raises(UnknownVersion):
        registry.resident(BARE_TASK, 1)


@pytest.mark.parametrize("name", ["", "Toy", "-toy", "toy-", "a/b", "../toy", "toy\n", "tóy", "a" * 65, ".", "toy toy"])
def test_a_bad_name_is_refused(registry: Registry, files: list[bytes], tmp_path: Path, name: str) -> None:
    with pytest.raises(BadAdapter, match="is no task name"):
        registry.upload(name, files[0])
    assert listing(tmp_path) == {}


def bad_file(base: BaseModel, fault: str) -> bytes:
    manifest = make_manifest(base, method=Head())
    tensors = make_tensors(base, manifest)
    if fault == "truncated":
        return write_adapter(manifest, tensors)[:-1]
    if fault == "other base":
        identity = BaseIdentity(**(base.identity.model_dump() | {"fingerprint": "0" * 64}))
        return make_adapter(base, method=Head(), base=identity)
    if fault == "wrong shape":
        return write_adapter(manifest, tensors | {"head.bias": tensors["head.bias"][:1]})
    if fault == "not a number":
        tensors["head.bias"][0] = float("nan")
        return write_adapter(manifest, tensors)
    return b""


@pytest.mark.parametrize("task", ["toy", "new"])
@pytest.mark.parametrize("fault", ["truncated", "other base", "wrong shape", "not a number", "empty"])
def test_nothing_refused_leaves_a_trace(
    registry: Registry, tiny_base: BaseModel, files: list[bytes], tmp_path: Path, fault: str, task: str
) -> None:
    registry.upload("toy", files[0])
    registry.upload("toy", files[1])
    before = listing(tmp_path), registry.names(), registry.resident("toy"), set(registry.residents())
    for activate in (True, False):
        with pytest.raises(BadAdapter):
            registry.upload(task, bad_file(tiny_base, fault), activate)
        assert before == (listing(tmp_path), registry.names(), registry.resident("toy"), set(registry.residents()))
    assert registry.upload("toy", files[2])[0].number == 3


@pytest.mark.parametrize("fault", ["truncated", "other base", "empty"])
def test_a_damaged_file_is_reported_and_keeps_no_other_from_being_served(
    registry: Registry, tiny_base: BaseModel, reopen: Reopen, files: list[bytes], tmp_path: Path, fault: str
) -> None:
    registry.upload("toy", files[0])
    registry.upload("spam", files[0])
    registry.upload("spam", files[1])
    (tmp_path / "spam-2.safetensors").write_bytes(bad_file(tiny_base, fault))
    again = reopen()
    assert again.names() == [BARE_TASK, "toy"]
    version = again.task("spam").versions[2]
    assert version.manifest is None
    with pytest.raises(BadAdapter, match=r"task spam version 2 cannot be served: .+"):
        again.resident("spam")
    again.activate("spam", 1)
    assert again.resident("spam").digest == digest(files[0])
    again.delete("spam", 2)
    assert served(again) == served(reopen())


def test_good_bytes_replace_a_damaged_file_under_a_new_number(
    registry: Registry, reopen: Reopen, files: list[bytes], tmp_path: Path
) -> None:
    registry.upload("toy", files[0])
    (tmp_path / "toy-1.safetensors").write_bytes(files[0][:-1])
    again = reopen()
    assert again.upload("toy", files[0])[0].number == 2
    assert again.resident("toy").digest == digest(files[0])


def test_files_copied_into_the_folder_are_served_by_their_highest_number(
    reopen: Reopen, files: list[bytes], tmp_path: Path
) -> None:
    (tmp_path / "toy-2.safetensors").write_bytes(files[0])
    (tmp_path / "toy-10.safetensors").write_bytes(files[1])
    registry = reopen()
    assert registry.resident("toy").version == 10
    assert registry.upload("toy", files[2], activate=False)[0].number == 11
    assert registry.resident("toy").version == reopen().resident("toy").version == 10


def test_a_file_copied_beside_uploaded_ones_is_there_but_not_active(
    registry: Registry, reopen: Reopen, files: list[bytes], tmp_path: Path
) -> None:
    registry.upload("toy", files[0])
    (tmp_path / "toy-7.safetensors").write_bytes(files[1])
    again = reopen()
    assert again.resident("toy").version == 1
    assert again.resident("toy", 7).digest == digest(files[1])
    assert again.upload("toy", files[2])[0].number == 8


def test_a_file_copied_under_the_bare_bases_name_is_not_served(
    reopen: Reopen, files: list[bytes], tmp_path: Path
) -> None:
    (tmp_path / f"{BARE_TASK}-1.safetensors").write_bytes(files[0])
    registry = reopen()
    assert registry.names() == [BARE_TASK]
    assert registry.resident(BARE_TASK) is registry.bare


def test_an_active_file_that_someone_removed_is_no_reason_not_to_start(
    registry: Registry, reopen: Reopen, files: list[bytes], tmp_path: Path
) -> None:
    registry.upload("toy", files[0])
    registry.upload("spam", files[0])
    (tmp_path / "toy-1.safetensors").unlink()
    again = reopen()
    assert again.names() == [BARE_TASK, "spam"]
    assert again.upload("toy", files[1])[0].number == 2
    assert again.resident("toy").version == 2


def test_a_damaged_state_stops_the_start(
    registry: Registry, reopen: Reopen, files: list[bytes], tmp_path: Path
) -> None:
    registry.upload("toy", files[0])
    (tmp_path / "toy.json").write_bytes(b"{")
    with pytest.raises(BadStore, match=r"toy\.json"):
        reopen()
