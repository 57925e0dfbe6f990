"""Files that are refused leave no trace, and files found in the folder are judged one by one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.adapters.file import digest, write_adapter
from service.adapters.manifest import BaseIdentity
from service.adapters.methods import Head
from service.engine.bank import BARE_TASK, Bank
from service.engine.base_model import BaseModel
from service.engine.engine import Engine
from service.errors import BadAdapter, BadInput, Conflict, UnknownTask, UnknownVersion
from service.metrics import Metrics
from service.registry.folder import FolderStore
from service.registry.registry import Registry
from service.registry.store import Content
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
    with pytest.raises(BadInput, match=r"is no task name: small letters.*; a letter or digit at both ends; at most 64"):
        registry.upload(name, files[0])
    assert listing(tmp_path) == {}


def bad_file(base: BaseModel, fault: str) -> bytes:
    manifest = make_manifest(base, method=Head())
    tensors = make_tensors(base, manifest)
    if fault == "truncated":
        return write_adapter(manifest, tensors)[:-1]
    if fault == "flipped":  # a bit of a number, which is a number still
        data = write_adapter(manifest, tensors)
        return data[:-2] + bytes([data[-2] ^ 0x40]) + data[-1:]
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
@pytest.mark.parametrize("fault", ["truncated", "flipped", "other base", "wrong shape", "not a number", "empty"])
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


@pytest.mark.parametrize("fault", ["truncated", "flipped", "other base", "empty"])
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


def test_a_file_copied_beside_a_running_service_is_left_alone(
    registry: Registry, reopen: Reopen, files: list[bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.upload("toy", files[0])
    for number in (2, 3):
        (tmp_path / f"toy-{number}.safetensors").write_bytes(files[1])
    assert registry.upload("toy", files[2])[0].number == 4
    assert "task toy: version 2 is there already" in caplog.text
    for one in (registry, reopen()):
        assert (one.resident("toy").version, one.resident("toy").digest) == (4, digest(files[2]))
    assert (tmp_path / "toy-2.safetensors").read_bytes() == (tmp_path / "toy-3.safetensors").read_bytes() == files[1]


def test_numbers_may_be_as_long_as_a_date_and_a_time(reopen: Reopen, files: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "spam-999999999.safetensors").write_bytes(files[0])
    (tmp_path / "toy-20260131235959.safetensors").write_bytes(files[0])
    assert reopen().upload("spam", files[1])[0].number == 1_000_000_000
    assert reopen().upload("toy", files[1])[0].number == 20260131235960
    assert served(reopen())["spam"] == (1_000_000_000, digest(files[1]))
    assert served(reopen())["toy"] == (20260131235960, digest(files[1]))


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


def test_a_version_that_only_the_state_knows_is_told_of(
    registry: Registry, reopen: Reopen, files: list[bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.upload("toy", files[0])
    registry.upload("toy", files[1])
    (tmp_path / "toy-2.safetensors").unlink()
    again = reopen()
    assert "task toy version 2 is not served: its file is missing" in caplog.messages
    version = again.task("toy").versions[2]
    assert (version.digest, version.manifest, version.problem) == (digest(files[1]), None, "its file is missing")
    with pytest.raises(BadAdapter, match="task toy version 2 cannot be served: its file is missing"):
        again.resident("toy")
    with pytest.raises(UnknownVersion):
        again.file("toy", 2)
    again.activate("toy", 1)
    again.delete("toy", 2)
    assert served(again) == served(reopen())
    assert again.upload("toy", files[1])[0].number == 3


def test_a_damaged_state_keeps_no_other_task_from_being_served(
    registry: Registry, reopen: Reopen, files: list[bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.upload("toy", files[0])
    registry.upload("spam", files[0])
    registry.upload("spam", files[1])
    (tmp_path / "spam.json").write_bytes(b"{")
    again = reopen()
    assert again.names() == [BARE_TASK, "toy"]
    [message] = caplog.messages
    assert message.startswith("store: spam.json is not a task's state: Invalid JSON")
    problems = [version.problem for version in again.task("spam").versions.values()]
    assert len(problems) == 2
    assert all(problem and "spam.json" in problem for problem in problems)
    with pytest.raises(UnknownTask, match="no active version"):
        again.resident("spam")
    with pytest.raises(BadAdapter, match=r"spam\.json"):
        again.resident("spam", 2)
    assert again.upload("spam", files[2])[0].number == 3
    assert served(again) == served(reopen())
    assert reopen().resident("spam", 1).digest == digest(files[0])


@pytest.mark.parametrize("content", [b"{", b'{"name": "store"}', b'{"a\\nb": 1}', b"\xff"])
def test_a_stray_json_is_told_of_in_one_line_and_ignored(
    registry: Registry,
    reopen: Reopen,
    files: list[bytes],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    content: bytes,
) -> None:
    registry.upload("toy", files[0])
    (tmp_path / "package.json").write_bytes(content)
    again = reopen()
    [message] = caplog.messages
    assert "package.json" in message
    assert "\n" not in message
    assert again.names() == [BARE_TASK, "toy"]
    with pytest.raises(UnknownTask):
        again.task("package")


def test_a_start_reads_tensors_of_active_versions_only(
    registry: Registry, tiny_base: BaseModel, files: list[bytes], tmp_path: Path
) -> None:
    read: list[tuple[str, int]] = []

    class WatchedStore(FolderStore):
        @contextmanager
        def reading(self, task: str, version: int) -> Iterator[Content]:
            read.append((task, version))
            with super().reading(task, version) as content:
                yield content

    for data in files[:3]:
        registry.upload("toy", data)
    registry.activate("toy", 2)
    again = Registry(tiny_base, WatchedStore(tmp_path), Bank(), Metrics(), Engine(tiny_base).run)
    again.open()
    assert read == [("toy", 2)]
    assert again.task("toy") == registry.task("toy")


def test_tensors_of_an_inactive_version_are_judged_when_it_is_asked_for(
    registry: Registry, tiny_base: BaseModel, reopen: Reopen, files: list[bytes], tmp_path: Path
) -> None:
    bad = bad_file(tiny_base, "not a number")
    registry.upload("toy", files[0])
    (tmp_path / "toy-2.safetensors").write_bytes(bad)
    again = reopen()
    assert again.task("toy").versions[2].problem is None
    for ask in (again.resident, again.activate):
        with pytest.raises(BadAdapter, match="not finite"):
            ask("toy", 2)
    for activate in (True, False):
        with pytest.raises(BadAdapter, match="not finite"):
            again.upload("toy", bad, activate)
    assert served(again) == served(reopen()) == served(registry)


@pytest.mark.parametrize("fault", ["truncated", "other base", "wrong shape", "empty"])
def test_an_inactive_file_is_refused_by_its_header(
    registry: Registry, tiny_base: BaseModel, reopen: Reopen, files: list[bytes], tmp_path: Path, fault: str
) -> None:
    bad = bad_file(tiny_base, fault)
    registry.upload("toy", files[0])
    (tmp_path / "toy-2.safetensors").write_bytes(bad)
    version = reopen().task("toy").versions[2]
    assert (version.digest, version.bytes, version.manifest) == (digest(bad), len(bad), None)
    assert version.problem
