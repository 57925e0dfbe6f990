"""Two services on one store: what one changes the other takes over, and what it cannot take over it tells of."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from obstore.store import MemoryStore

from service.adapters.file import digest
from service.engine.bank import BARE_TASK
from service.engine.base_model import BaseModel
from service.engine.engine import Engine, Row
from service.errors import BadAdapter, BadStore, Conflict, EngineFault, StoreUnreachable, UnknownTask, UnknownVersion
from service.registry.folder import FolderStore
from service.registry.proof import Prover
from service.registry.registry import Registry
from service.registry.store import Store
from service.registry.versions import Behind
from tests.registry.disks import open_registry, served
from tests.registry.objects import CUT, Line, open_objects
from tests.registry.test_refused_files import bad_file
from tests.tiny import alone, make_adapter, random_row


class Site:
    """One store, and what lies in it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.objects = MemoryStore()
        self.line = Line(self.objects)

    def open(self) -> Store:
        return FolderStore(self.folder) if self.kind == "folder" else open_objects(self.line)

    def put(self, name: str, data: bytes) -> None:
        """By hand."""
        if self.kind == "folder":
            (self.folder / name).write_bytes(data)
        else:
            self.objects.put(name, data)


@pytest.fixture(params=["folder", "objects"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    return Site(request.param, tmp_path)


@pytest.fixture
def ours(site: Site, tiny_base: BaseModel) -> Registry:
    return open_registry(tiny_base, site.open())


@pytest.fixture
def theirs(site: Site, tiny_base: BaseModel) -> Registry:
    return open_registry(tiny_base, site.open())


@pytest.fixture
def proved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests of what is proved."""
    found: list[str] = []
    prove = Prover.prove

    def noted(self: Prover, candidate: Any, *rest: Any) -> Any:
        found.append(candidate.digest)
        return prove(self, candidate, *rest)

    monkeypatch.setattr(Prover, "prove", noted)
    return found


def test_what_others_upload_activate_delete_and_retire_is_followed(
    ours: Registry, theirs: Registry, files: list[bytes]
) -> None:
    for number, data in enumerate(files[:3], 1):
        assert theirs.upload("toy", data)[0].number == number
        ours.follow()
        assert served(ours) == served(theirs)
    theirs.activate("toy", 1)
    theirs.delete("toy", 2)
    theirs.upload("spam", files[3])
    ours.follow()
    assert served(ours) == served(theirs)
    assert ours.task("toy") == theirs.task("toy")
    for asked in (ours.resident, ours.activate):
        with pytest.raises(UnknownVersion):
            asked("toy", 2)
    theirs.retire("toy")
    ours.follow()
    assert ours.names() == [BARE_TASK, "spam"]
    assert ours.log("toy") == theirs.log("toy")
    assert [resident.digest for resident in ours.residents()] == [digest(files[3])]


def test_bytes_that_many_upload_at_once_are_one_version_and_leave_no_other_file(
    site: Site, ours: Registry, theirs: Registry, files: list[bytes], tiny_base: BaseModel
) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: (ours, theirs)[n % 2].upload("toy", files[n // 2 % 3]), range(24)))
    given = {version.number: version.digest for version, _ in found}
    assert sorted(given.values()) == sorted(map(digest, files[:3]))
    assert sum(new for _, new in found) == 3
    for registry in (ours, theirs, open_registry(tiny_base, site.open())):
        registry.follow()
        kept = registry.task("toy").versions
        assert {number: version.digest for number, version in kept.items()} == given
        assert [version.problem for version in kept.values()] == [None] * 3
    assert set(site.open().list()["toy"].versions) == set(given)


@pytest.mark.parametrize("moment", ["write_state", "remove"])
def test_bytes_that_one_takes_back_and_another_keeps_meanwhile_are_kept(
    site: Site, ours: Registry, files: list[bytes], tiny_base: BaseModel, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = site.open()
    theirs = open_registry(tiny_base, store)
    theirs.upload("toy", files[0])
    write_state, remove, kept = store.write_state, store.remove, list[int]()

    def keep() -> None:
        """Theirs has written the file, and nobody has named it yet."""
        if not kept:
            kept.append(ours.upload("toy", files[1], activate=False)[0].number)

    def refuse(*change: Any) -> str:
        if moment == "write_state":
            keep()
        monkeypatch.setattr(store, "write_state", write_state)
        raise BadStore("it is full")

    def removed(*version: Any) -> None:
        if moment == "remove":
            keep()
        remove(*version)

    monkeypatch.setattr(store, "write_state", refuse)
    monkeypatch.setattr(store, "remove", removed)
    with pytest.raises(BadStore, match="full"):
        theirs.upload("toy", files[1])
    assert kept == [2]
    assert site.open().read("toy", 2) == files[1]
    for registry in (ours, theirs, open_registry(tiny_base, site.open())):
        registry.follow()
        assert registry.activate("toy", 2).digest == digest(files[1])


def test_what_was_proved_by_whoever_uploaded_is_not_proved_again(
    ours: Registry, theirs: Registry, files: list[bytes], proved: list[str]
) -> None:
    theirs.upload("toy", files[0])
    ours.follow()
    assert ours.resident("toy").digest == digest(files[0])
    assert proved == [digest(files[0])]


def test_a_file_copied_into_the_store_is_proved_before_it_is_served(
    site: Site, ours: Registry, files: list[bytes], proved: list[str]
) -> None:
    site.put("toy-1.safetensors", files[0])
    ours.follow()
    assert ours.resident("toy").digest == digest(files[0])
    assert proved == [digest(files[0])]


def test_rows_under_way_keep_their_version(
    ours: Registry, theirs: Registry, tiny_base: BaseModel, files: list[bytes]
) -> None:
    theirs.upload("toy", files[0])
    ours.follow()
    row = Row(random_row(9), ours.resident("toy"))
    before = alone(Engine(tiny_base), row)
    theirs.upload("toy", files[1])
    theirs.delete("toy", 1)
    ours.follow()
    assert ours.resident("toy").digest == digest(files[1])
    np.testing.assert_array_equal(alone(Engine(tiny_base), row), before)


def test_changes_at_once_are_all_made(ours: Registry, theirs: Registry, files: list[bytes]) -> None:
    """Neither has followed the other when it makes its change."""
    assert ours.upload("toy", files[0])[0].number == 1
    assert theirs.upload("toy", files[1])[0].number == 2
    version, new = ours.upload("toy", files[1])
    assert (version.number, new) == (2, False)
    assert theirs.upload("toy", files[2], activate=False)[0].number == 3
    assert ours.activate("toy", 3).number == 3
    theirs.delete("toy", 1)
    with pytest.raises(Conflict, match="version 3 is the active one"):
        theirs.delete("toy", 3)
    with pytest.raises(UnknownVersion):
        ours.activate("toy", 1)
    ours.retire("toy")
    assert theirs.upload("toy", files[0])[0].number == 4
    ours.follow()
    assert [(one.did, one.version) for one in ours.log("toy")] == [
        ("upload", 1),
        ("upload", 2),
        ("upload", 3),
        ("activate", 3),
        ("delete", 1),
        ("retire", None),
        ("delete", 2),
        ("delete", 3),
        ("upload", 4),
    ]
    assert ours.log("toy") == theirs.log("toy")


def test_uploads_at_once_have_one_file_one_number_and_one_entry_each(
    site: Site, ours: Registry, theirs: Registry, tiny_base: BaseModel
) -> None:
    """Each is overtaken again and again, by the other service's and by its own service's."""
    data = [make_adapter(tiny_base, seed=seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: (ours, theirs)[seed % 2].upload("mood", data[seed]), range(12)))
    assert all(new for _, new in found)
    given = {version.number: version.digest for version, _ in found}
    assert sorted(given) == list(range(1, 13))
    for registry in (ours, theirs, open_registry(tiny_base, site.open())):
        registry.follow()
        assert {number: one.digest for number, one in registry.task("mood").versions.items()} == given
        assert sorted((entry.did, entry.version or 0) for entry in registry.log("mood")) == [
            ("upload", number) for number in sorted(given)
        ]


def test_bytes_uploaded_to_both_at_once_are_one_version(ours: Registry, theirs: Registry, files: list[bytes]) -> None:
    assert ours.upload("toy", files[0], activate=False)[0].number == 1
    version, new = theirs.upload("toy", files[0])
    assert (version.number, new) == (1, False)
    assert theirs.resident("toy").version == 1
    assert len(theirs.task("toy").versions) == 1


@pytest.mark.parametrize("fault", ["truncated", "other base", "wrong shape", "empty", "not a number"])
def test_a_version_that_cannot_be_served_leaves_the_one_before_and_everybody_else(
    site: Site, ours: Registry, theirs: Registry, tiny_base: BaseModel, files: list[bytes], fault: str
) -> None:
    bad = bad_file(tiny_base, fault)
    for task in ("toy", "spam"):
        theirs.upload(task, files[0])
    ours.follow()
    # As a service on another base, or of another kind, may have had its reasons to.
    site.put("toy-2.safetensors", bad)
    site.put("toy.json", b'{"active": 2, "last": 2}')
    theirs.upload("spam", files[1])
    ours.follow()
    late = ours.task("toy")
    assert (late.active, late.serving) == (2, 1)
    assert late.behind is not None
    assert late.behind.reason == late.versions[2].problem
    assert ours.resident("toy").digest == digest(files[0])
    assert ours.resident("spam").digest == digest(files[1])
    with pytest.raises(BadAdapter):
        ours.resident("toy", 2)
    with pytest.raises(Conflict):
        ours.delete("toy", 1)  # it answers
    assert ours.activate("toy", 1).number == 1
    assert (ours.task("toy").serving, ours.task("toy").behind) == (1, None)
    assert served(ours)["toy"] == (1, digest(files[0]))


def test_what_answers_instead_is_not_answered_once_it_is_deleted(
    site: Site, ours: Registry, theirs: Registry, tiny_base: BaseModel, files: list[bytes]
) -> None:
    theirs.upload("toy", files[0])
    ours.follow()
    site.put("toy-2.safetensors", bad_file(tiny_base, "not a number"))
    site.put("toy.json", b'{"active": 2, "last": 2}')
    ours.follow()
    assert ours.resident("toy").version == 1
    site.put("toy.json", b'{"active": 2, "last": 2, "versions": {"2": {"digest": ""}}}')
    ours.follow()
    with pytest.raises(BadAdapter, match=r"task toy version 2 cannot be served: .*finite"):
        ours.resident("toy")
    assert ours.names() == [BARE_TASK]


def test_what_fails_for_a_while_is_tried_again(
    ours: Registry, theirs: Registry, files: list[bytes], monkeypatch: pytest.MonkeyPatch, site: Site
) -> None:
    theirs.upload("toy", files[0])
    ours.follow()
    site.put("toy-2.safetensors", files[1])
    site.put("toy.json", b'{"active": 2, "last": 2}')

    def faulty(*_: object) -> None:
        raise EngineFault("not now")

    with monkeypatch.context() as patch:
        patch.setattr(Prover, "prove", faulty)
        for _ in range(2):
            ours.follow()
            assert ours.resident("toy").version == 1
            assert ours.task("toy").behind == Behind(1, "not now")
    ours.follow()
    assert ours.resident("toy").version == 2
    assert ours.task("toy").behind is None


def test_a_state_that_is_damaged_leaves_its_task_as_it_was_and_a_change_repairs_it(
    site: Site, ours: Registry, theirs: Registry, files: list[bytes]
) -> None:
    theirs.upload("toy", files[0])
    ours.follow()
    site.put("toy.json", b"{")
    theirs.upload("spam", files[1])
    ours.follow()
    assert ours.resident("toy").version == 1
    assert ours.resident("spam").digest == digest(files[1])
    behind = ours.task("toy").behind
    assert behind is not None
    assert "toy.json is not a task's state" in behind.reason
    assert ours.upload("toy", files[2])[0].number == 2
    theirs.follow()
    assert served(theirs) == served(ours)
    assert [one.did for one in theirs.log("toy")] == ["upload", "upload"]


def test_a_task_that_is_gone_from_the_store_is_gone(site: Site, ours: Registry, files: list[bytes]) -> None:
    ours.upload("toy", files[0])
    ours.follow()
    if site.kind == "folder":
        for name in ("toy.json", "toy-1.safetensors"):
            (site.folder / name).unlink()
    else:
        site.objects.delete(["toy.json", "toy-1.safetensors"])
    ours.follow()
    with pytest.raises(UnknownTask):
        ours.resident("toy")
    assert ours.upload("toy", files[1])[0].number == 1


def test_looking_at_a_store_that_has_not_changed_is_one_request(tiny_base: BaseModel, files: list[bytes]) -> None:
    line = Line(MemoryStore())
    ours, theirs = (open_registry(tiny_base, open_objects(line)) for _ in range(2))
    for task in ("toy", "spam", "mood"):
        theirs.upload(task, files[0])
    for registry in (ours, theirs):
        registry.follow()
    line.requests = 0
    ours.follow()
    assert line.requests == 1
    theirs.upload("toy", files[1])
    line.requests = 0
    ours.follow()
    assert line.requests == 4  # the list, the state, the file's header, the file


def test_a_store_that_is_away_for_a_while_changes_nothing_and_is_followed_again(
    tiny_base: BaseModel, files: list[bytes]
) -> None:
    line = Line(MemoryStore())
    ours, theirs = (open_registry(tiny_base, open_objects(line)) for _ in range(2))
    theirs.upload("toy", files[0])
    ours.follow()
    theirs.upload("toy", files[1])
    before = served(ours)
    line.dead = True
    for _ in range(2):
        with pytest.raises(StoreUnreachable, match="store memory://adapters"):
            ours.follow()
        with pytest.raises(StoreUnreachable, match="store memory://adapters"):
            ours.upload("toy", files[2])
        assert served(ours) == before
    line.dead = False
    ours.follow()
    assert served(ours) == served(theirs)
    assert ours.upload("toy", files[2])[0].number == 3


@pytest.mark.parametrize("late", [False, True])
def test_a_store_that_is_lost_while_it_is_followed_is_caught_up_with_later(
    tiny_base: BaseModel, files: list[bytes], late: bool
) -> None:
    line = Line(MemoryStore())
    theirs = open_registry(tiny_base, open_objects(line))
    for step in range(12):
        ours = open_registry(tiny_base, open_objects(line))
        theirs.upload("toy", files[step % 2])
        theirs.upload("spam", files[(step + 1) % 2])
        theirs.upload("toy", files[2 + step % 2])
        with line.trouble(step, CUT, late) as trouble:
            try:
                ours.follow()
            except StoreUnreachable:
                assert trouble.failed
        ours.follow()
        assert served(ours) == served(theirs)
        assert all(task.behind is None for task in ours.tasks())
    assert not trouble.failed


def test_an_answer_that_is_lost_is_found_in_the_store(tiny_base: BaseModel, files: list[bytes]) -> None:
    """One request is cut after it was done: the change is made, once, and acknowledged."""
    for step in range(12):
        line = Line(MemoryStore())
        registry = open_registry(tiny_base, open_objects(line))
        with line.trouble(step, CUT, late=True) as trouble:
            try:
                number = registry.upload("toy", files[0])[0].number
            except StoreUnreachable:
                continue
        again = open_registry(tiny_base, open_objects(line))
        assert (number, served(again)) == (1, served(registry))
        assert [one.did for one in again.log("toy")] == ["upload"]
        if not trouble.failed:
            break
    assert 3 <= step < 12


def test_a_long_log_is_kept_in_parts_and_none_of_it_is_lost(
    site: Site, ours: Registry, theirs: Registry, files: list[bytes]
) -> None:
    for data in files[:2]:
        ours.upload("toy", data)
    for number in range(498):
        ours.activate("toy", 1 + number % 2, by=f"caller-{number}")
    assert len(ours.task("toy").log) < 200
    theirs.follow()
    for registry in (ours, theirs):
        log = registry.log("toy")
        assert [one.by for one in log[2:]] == [f"caller-{number}" for number in range(498)]
        assert [one.version for one in log[:4]] == [1, 2, 1, 2]
    kept = site.open().state("toy")
    assert kept is not None
    assert len(kept.state.model_dump_json()) < 64 * 1024  # type: ignore[union-attr]
