"""The registry: what was acknowledged is served, now and after a restart; numbers are never used twice."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import disk_usage
from threading import Barrier, Event, Thread

import numpy as np
import pytest

from service.adapters.file import digest
from service.engine.bank import BARE_TASK, Bank, Resident
from service.engine.base_model import BaseModel
from service.engine.engine import Engine, Row
from service.errors import BadAdapter, BadStore, Conflict, UnknownTask, UnknownVersion
from service.metrics import Metrics
from service.registry.folder import FolderStore
from service.registry.registry import Registry
from service.registry.store import Content
from tests.registry.disks import FULL, listing, open_registry, served, trouble
from tests.tiny import alone, random_row

Reopen = Callable[[], Registry]


def test_what_is_uploaded_is_served_at_once_and_after_a_restart(
    registry: Registry, reopen: Reopen, files: list[bytes]
) -> None:
    version, new = registry.upload("toy", files[0])
    assert (version.number, version.digest, version.bytes, new) == (1, digest(files[0]), len(files[0]), True)
    for one in (registry, reopen()):
        assert one.names() == [BARE_TASK, "toy"]
        assert one.resident("toy") is one.ready("toy")
        assert (one.resident("toy").digest, one.resident("toy").version) == (digest(files[0]), 1)
        assert one.file("toy", 1) == files[0]


def test_a_new_upload_takes_the_place_of_the_old_which_can_still_be_asked_for(
    registry: Registry, reopen: Reopen, files: list[bytes]
) -> None:
    registry.upload("toy", files[0])
    registry.upload("toy", files[1])
    for one, there in (registry, True), (reopen(), False):
        assert one.resident("toy").digest == digest(files[1])
        assert (one.ready("toy", 1) is not None) == there  # what was active stays a while, for a roll-back
        assert one.resident("toy", 1).digest == digest(files[0])
        assert one.ready("toy", 1) is one.resident("toy", 1)


def test_the_files_own_task_name_does_not_matter(registry: Registry, files: list[bytes]) -> None:
    registry.upload("one", files[0])
    registry.upload("other.name-2", files[0])
    assert registry.names() == [BARE_TASK, "one", "other.name-2"]


def test_the_same_bytes_again_are_the_version_they_already_are(
    registry: Registry, files: list[bytes], tmp_path: Path
) -> None:
    first, _ = registry.upload("toy", files[0])
    before = listing(tmp_path)
    assert registry.upload("toy", files[0]) == (first, False)
    assert listing(tmp_path) == before


def test_known_bytes_are_activated_unless_that_is_declined(registry: Registry, files: list[bytes]) -> None:
    registry.upload("toy", files[0])
    registry.upload("toy", files[1])
    assert registry.upload("toy", files[0], activate=False)[0].number == 1
    assert registry.resident("toy").version == 2
    assert registry.upload("toy", files[0])[0].number == 1
    assert registry.resident("toy").version == 1


def test_numbers_are_never_used_twice(registry: Registry, reopen: Reopen, files: list[bytes]) -> None:
    registry.upload("toy", files[0])
    registry.upload("toy", files[1], activate=False)
    registry.delete("toy", 2)
    assert registry.upload("toy", files[1], activate=False)[0].number == 3
    registry.delete("toy", 3)
    registry = reopen()
    assert registry.upload("toy", files[1])[0].number == 4
    registry.retire("toy")
    assert registry.upload("toy", files[1])[0].number == 5
    registry.retire("toy")
    registry = reopen()
    assert registry.upload("toy", files[1], activate=False)[0].number == 6


def test_an_upload_that_shall_not_be_active_changes_nothing_that_is_served(
    registry: Registry, reopen: Reopen, files: list[bytes]
) -> None:
    registry.upload("toy", files[0])
    registry.upload("toy", files[1], activate=False)
    for one in (registry, reopen()):
        assert one.resident("toy").version == 1
        assert one.resident("toy", 2).digest == digest(files[1])


def test_a_new_task_that_shall_not_be_active_is_not_served(
    registry: Registry, reopen: Reopen, files: list[bytes]
) -> None:
    registry.upload("toy", files[0], activate=False)
    for one in (registry, reopen()):
        assert one.names() == [BARE_TASK]
        with pytest.raises(UnknownTask, match="no active version"):
            one.resident("toy")
    registry.activate("toy", 1)
    assert served(registry) == served(reopen())
    assert registry.resident("toy").version == 1


def test_versions_are_rolled_forward_and_back(registry: Registry, reopen: Reopen, files: list[bytes]) -> None:
    for data in files[:3]:
        registry.upload("toy", data)
    for number in (1, 3, 2, 2):
        assert registry.activate("toy", number).number == number
        for one in (registry, reopen()):
            assert one.resident("toy").digest == digest(files[number - 1])


def test_an_activation_leaves_no_moment_without_an_answer_in_memory(
    tiny_base: BaseModel, tmp_path: Path, files: list[bytes]
) -> None:
    answers: list[Resident | None] = []

    class WatchedBank(Bank):
        def serve(self, task: str, resident: Resident) -> None:
            answers.append(registry.ready("toy"))
            super().serve(task, resident)
            answers.append(registry.ready("toy"))

    registry = Registry(tiny_base, FolderStore(tmp_path), WatchedBank(), Metrics(), Engine(tiny_base).run)
    registry.upload("toy", files[0])
    registry.upload("toy", files[1])
    registry.activate("toy", 1)
    assert len(answers) == 6
    assert None not in answers


def test_a_row_keeps_the_version_it_was_admitted_with(
    registry: Registry, tiny_base: BaseModel, files: list[bytes]
) -> None:
    engine = Engine(tiny_base)
    registry.upload("toy", files[0])
    row = Row(random_row(9), registry.resident("toy"))
    before = alone(engine, row)
    registry.upload("toy", files[1])
    after = alone(engine, Row(random_row(9), registry.resident("toy")))
    registry.retire("toy")
    np.testing.assert_array_equal(alone(engine, row), before)
    assert np.abs(after - before).max() > 0.01


def test_the_active_version_is_not_deleted(registry: Registry, files: list[bytes], tmp_path: Path) -> None:
    registry.upload("toy", files[0])
    before = listing(tmp_path)
    with pytest.raises(Conflict, match="version 1 is the active one of task toy"):
        registry.delete("toy", 1)
    assert listing(tmp_path) == before
    assert registry.resident("toy").version == 1


def test_a_deleted_version_is_gone(registry: Registry, reopen: Reopen, files: list[bytes]) -> None:
    registry.upload("toy", files[0])
    registry.upload("toy", files[1])
    registry.resident("toy", 1)
    registry.delete("toy", 1)
    for one in (registry, reopen()):
        assert one.resident("toy").version == 2
        for asked in (one.resident, one.file, one.activate, one.delete):
            with pytest.raises(UnknownVersion, match="task toy has no version 1"):
                asked("toy", 1)


def test_a_version_deleted_while_it_is_read_does_not_stay_in_memory(
    tiny_base: BaseModel, tmp_path: Path, files: list[bytes]
) -> None:
    class SlowStore(FolderStore):
        @contextmanager
        def reading(self, task: str, version: int) -> Iterator[Content]:
            with super().reading(task, version) as content:
                registry.delete(task, version)
                yield content

    registry = Registry(tiny_base, SlowStore(tmp_path), Bank(), Metrics(), Engine(tiny_base).run)
    registry.upload("toy", files[0], activate=False)
    registry.upload("toy", files[1])
    assert registry.resident("toy", 1).digest == digest(files[0])
    assert [resident.version for resident in registry.residents()] == [2]


def test_a_file_that_has_vanished_is_an_unknown_version(
    registry: Registry, reopen: Reopen, files: list[bytes], tmp_path: Path
) -> None:
    registry.upload("toy", files[0])
    registry.upload("toy", files[1])
    registry = reopen()
    (tmp_path / "toy-1.safetensors").unlink()
    for asked in (registry.resident, registry.file, registry.activate):
        with pytest.raises(UnknownVersion, match="task toy has no version 1: its file is missing"):
            asked("toy", 1)


def test_a_retired_task_is_gone_and_its_files_too(
    registry: Registry, reopen: Reopen, files: list[bytes], tmp_path: Path
) -> None:
    registry.upload("toy", files[0])
    registry.upload("toy", files[1])
    registry.upload("spam", files[0])
    registry.retire("toy")
    assert sorted(listing(tmp_path)) == ["spam-1.safetensors", "spam.json", "toy.json"]
    for one in (registry, reopen()):
        assert one.names() == [BARE_TASK, "spam"]
        with pytest.raises(UnknownTask):
            one.resident("toy")
        with pytest.raises(UnknownVersion):
            one.resident("toy", 2)


def test_a_task_that_never_was_is_unknown(registry: Registry) -> None:
    with pytest.raises(UnknownTask, match="there is no task 'toy'"):
        registry.resident("toy")
    with pytest.raises(UnknownTask):
        registry.activate("toy", 1)
    with pytest.raises(UnknownTask):
        registry.delete("toy", 1)
    with pytest.raises(UnknownTask):
        registry.retire("toy")
    with pytest.raises(UnknownTask):
        registry.file("toy", 1)


def test_the_gauges_tell_what_is_in_memory_and_what_is_served(
    tiny_base: BaseModel, tmp_path: Path, files: list[bytes]
) -> None:
    metrics = Metrics()
    registry = open_registry(tiny_base, tmp_path, metrics, spare=1)

    def gauges() -> tuple[float | None, float | None]:
        names = ("rootstock_resident_adapters", "rootstock_adapter_parameters")
        resident, parameters = (metrics.registry.get_sample_value(name) for name in names)
        return resident, parameters

    registry.upload("toy", files[0])
    each = registry.resident("toy").parameters
    assert gauges() == (1, each)
    registry.upload("toy", files[1])
    assert gauges() == (2, each)
    registry.upload("toy", files[2])
    assert gauges() == (2, each)
    registry.resident("toy", 1)
    assert gauges() == (2, each)
    registry.activate("toy", 1)
    assert gauges() == (2, each)
    registry.upload("spam", files[0])
    assert gauges() == (2, 2 * each)
    with trouble(2, FULL), pytest.raises(BadStore):
        registry.retire("toy")
    assert gauges() == (2, 2 * each)
    with trouble(8, FULL):  # a file stays behind
        registry.retire("toy")
    assert gauges() == (1, each)


def test_loads_failed_loads_evictions_and_refused_files_are_counted(
    tiny_base: BaseModel, tmp_path: Path, files: list[bytes]
) -> None:
    metrics = Metrics()
    bank = Bank(active=1, others=1, evicted=metrics.evictions.inc)
    registry = Registry(tiny_base, FolderStore(tmp_path), bank, metrics, Engine(tiny_base).run)

    def counts() -> tuple[float | None, ...]:
        names = "load_seconds_count", "load_failures_total", "evictions_total"
        return tuple(metrics.registry.get_sample_value(f"rootstock_adapter_{name}") for name in names)

    registry.upload("toy", files[0])
    registry.upload("spam", files[1])  # makes the one before go
    assert counts() == (0, 0, 1)
    registry.resident("toy")
    assert counts() == (1, 0, 2)
    (tmp_path / "spam-1.safetensors").write_bytes(files[1][:-1])
    with pytest.raises(BadAdapter):
        registry.resident("spam")
    assert counts() == (2, 1, 2)
    assert metrics.registry.get_sample_value("rootstock_refused_adapters") == 1
    assert metrics.registry.get_sample_value("rootstock_tasks") == 1
    assert metrics.registry.get_sample_value("rootstock_store_free_bytes") == pytest.approx(
        disk_usage(tmp_path).free, rel=0.1
    )


def test_uploads_at_once_get_numbers_of_their_own(registry: Registry, reopen: Reopen, files: list[bytes]) -> None:
    start, given = Barrier(len(files)), []

    def upload(data: bytes) -> None:
        start.wait(30)
        given.append((registry.upload("toy", data)[0].number, digest(data)))

    callers = [Thread(target=upload, args=(data,)) for data in files]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
    assert sorted(number for number, _ in given) == [1, 2, 3, 4, 5]
    again = reopen()
    assert all(again.resident("toy", number).digest == content for number, content in given)
    assert served(registry) == served(again)


def test_more_tasks_than_fit_are_all_answered(tiny_base: BaseModel, tmp_path: Path, files: list[bytes]) -> None:
    before = open_registry(tiny_base, tmp_path)
    for number, data in enumerate(files[:3]):
        before.upload(f"toy-{number}", data)
    registry = Registry(
        tiny_base, FolderStore(tmp_path), Bank(active=2, pinned=["toy-2"]), Metrics(), Engine(tiny_base).run
    )
    registry.open()
    assert [registry.holds(f"toy-{number}", 1) for number in range(3)] == [True, False, True]
    for _ in range(2):
        for number, data in enumerate(files[:3]):
            assert registry.resident(f"toy-{number}").digest == digest(data)
            assert registry.holds(f"toy-{number}", 1)
            assert registry.holds("toy-2", 1)
            assert len(list(registry.residents())) == 2
    assert [version.number for version in registry.served()] == [1, 1, 1]


def test_a_file_is_read_once_however_many_wait(tiny_base: BaseModel, tmp_path: Path, files: list[bytes]) -> None:
    reads: list[str] = []
    opened = Event()

    class SlowStore(FolderStore):
        @contextmanager
        def reading(self, task: str, version: int) -> Iterator[Content]:
            reads.append(task)
            assert opened.wait(10)
            with super().reading(task, version) as content:
                yield content

    registry = Registry(tiny_base, SlowStore(tmp_path), Bank(), Metrics(), Engine(tiny_base).run)
    registry.upload("toy", files[0], activate=False)
    futures = [registry.fetch("toy", 1) for _ in range(5)]
    assert registry.ready("toy", 1) is None
    opened.set()
    assert len({id(future.result(10)) for future in futures}) == 1
    assert reads == ["toy"]
    assert registry.ready("toy", 1) is futures[0].result()


def test_a_file_that_was_changed_is_judged_again(tiny_base: BaseModel, tmp_path: Path, files: list[bytes]) -> None:
    before = open_registry(tiny_base, tmp_path)
    before.upload("good", files[0])
    before.upload("late", files[1])
    registry = Registry(tiny_base, FolderStore(tmp_path), Bank(active=1), Metrics(), Engine(tiny_base).run)
    registry.open()
    (tmp_path / "late-1.safetensors").write_bytes(files[2])
    assert registry.resident("late").digest == digest(files[2])
    registry.resident("good")  # now the other one has gone
    (tmp_path / "late-1.safetensors").write_bytes(files[3][:-1])
    with pytest.raises(BadAdapter, match="cut short"):
        registry.resident("late")


def test_a_file_that_turns_out_bad_when_it_is_needed_is_refused_from_then_on(
    tiny_base: BaseModel, tmp_path: Path, files: list[bytes]
) -> None:
    before = open_registry(tiny_base, tmp_path)
    before.upload("good", files[0])
    before.upload("late", files[1])
    path = tmp_path / "late-1.safetensors"
    path.write_bytes(path.read_bytes()[:-8] + b"\xff" * 8)  # not a number, in half precision
    registry = Registry(tiny_base, FolderStore(tmp_path), Bank(active=1), Metrics(), Engine(tiny_base).run)
    registry.open()
    assert registry.names() == [BARE_TASK, "good", "late"]
    with pytest.raises(BadAdapter, match="finite"):
        registry.resident("late")
    assert registry.names() == [BARE_TASK, "good"]
    with pytest.raises(BadAdapter, match=r"task late version 1 cannot be served: .*finite"):
        registry.resident("late")
    assert registry.resident("good").digest == digest(files[0])


def test_a_file_put_into_the_store_is_judged_the_first_time_it_is_read(
    reopen: Reopen, files: list[bytes], tmp_path: Path
) -> None:
    for number in (1, 2):
        (tmp_path / f"toy-{number}.safetensors").write_bytes(files[number])
    registry = reopen()
    assert [registry.version("toy", number).judged for number in (1, 2)] == [False, True]
    registry.resident("toy", 1)
    assert registry.version("toy", 1).judged
    registry.release("toy")
    assert registry.resident("toy", 1).digest == digest(files[1])


def test_of_a_version_whose_file_was_replaced_nothing_older_stays_in_memory(
    registry: Registry, files: list[bytes], tmp_path: Path
) -> None:
    registry.upload("toy", files[0])
    registry.upload("toy", files[1])
    assert registry.ready("toy", 1) is not None
    (tmp_path / "toy-1.safetensors").write_bytes(files[2])
    registry.follow()
    assert registry.ready("toy", 1) is None
    assert registry.resident("toy", 1).digest == digest(files[2])
