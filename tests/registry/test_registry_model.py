"""Any order of changes by two services on one store, refusals, restarts, failing stores, kills, questions under way:
each answer is of the version that the log says, nothing acknowledged is lost, nothing refused leaves a trace."""

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple, Protocol

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from obstore.store import MemoryStore, ObjectStore, from_url

from service.adapters.file import digest
from service.engine.arranging import load_resident
from service.engine.bank import BARE_TASK
from service.engine.base_model import BaseModel
from service.engine.engine import Engine, Row
from service.errors import (
    BadAdapter,
    BadStore,
    Conflict,
    RootstockError,
    StoreUnreachable,
    UnknownCandidate,
    UnknownTask,
    UnknownVersion,
)
from service.registry.folder import FolderStore
from service.registry.log import Log
from service.registry.objects import CLIENT
from service.registry.registry import Registry
from service.registry.release import Candidate
from service.registry.store import Store
from service.tasks import Floats
from tests.adapters.forge import put_together, take_apart, with_manifest
from tests.registry.disks import FULL, Killed, listing, open_registry, trouble
from tests.registry.objects import CUT, Line, open_objects
from tests.s3 import Endpoint
from tests.tiny import alone, random_row

TASKS = ("toy", "spam")
ROW = random_row(7)  # what every question asks
REPLICAS = 2


class Happening(Protocol):
    @property
    def failed(self) -> bool: ...


class Place(Protocol):
    """Where a store is, and what may happen there."""

    steps: int  # about as many as an upload takes

    def open(self) -> Store: ...

    def kill(self, step: int, late: bool) -> AbstractContextManager[Happening]: ...

    def fail(self, step: int, late: bool) -> AbstractContextManager[Happening]: ...

    def content(self) -> dict[str, bytes]: ...

    def close(self) -> None: ...


class Folder:
    steps = 27

    def __init__(self) -> None:
        self._folder = TemporaryDirectory()
        self._path = Path(self._folder.name)

    def open(self) -> Store:
        return FolderStore(self._path)

    def kill(self, step: int, late: bool) -> AbstractContextManager[Happening]:
        return trouble(step % self.steps, Killed())

    def fail(self, step: int, late: bool) -> AbstractContextManager[Happening]:
        return trouble(step % self.steps, FULL)

    def content(self) -> dict[str, bytes]:
        return listing(self._path)

    def close(self) -> None:
        self._folder.cleanup()


class Objects:
    steps = 5

    def __init__(self, objects: ObjectStore | None = None) -> None:
        self._objects = objects or MemoryStore()
        self._line = Line(self._objects)

    def open(self) -> Store:
        return open_objects(self._line)

    def kill(self, step: int, late: bool) -> AbstractContextManager[Happening]:
        return self._line.trouble(step % self.steps, Killed(), late)

    def fail(self, step: int, late: bool) -> AbstractContextManager[Happening]:
        return self._line.trouble(step % self.steps, CUT, late)

    def content(self) -> dict[str, bytes]:
        names = [one["path"] for one in self._objects.list_with_delimiter()["objects"]]
        return {name: bytes(self._objects.get(name).bytes()) for name in names}

    def close(self) -> None:
        pass


class Change(NamedTuple):
    verb: Literal["upload", "keep", "activate", "delete", "retire", "nominate", "promote", "abandon"]
    task: str
    number: int  # of the file, or of the version


class Question(NamedTuple):
    """A row under way, and the file that must answer it."""

    row: Row
    content: str


@dataclass(frozen=True)
class Known:
    """A task as it was acknowledged."""

    versions: dict[int, str] = field(default_factory=dict)  # number → digest
    active: int | None = None
    last: int = 0
    candidate: int | None = None

    def activated(self, number: int) -> "Known":
        return replace(self, active=number, candidate=None if self.candidate == number else self.candidate)


CHANGES = st.one_of(
    st.builds(Change, st.sampled_from(["upload", "keep"]), st.sampled_from(TASKS), st.integers(0, 4)),
    st.builds(Change, st.sampled_from(["activate", "delete", "nominate"]), st.sampled_from(TASKS), st.integers(1, 6)),
    st.builds(Change, st.sampled_from(["retire", "promote", "abandon"]), st.sampled_from(TASKS), st.just(0)),
)
STEPS = st.integers(0, 1000)  # of a place's, in turn
BY = st.integers(0, REPLICAS - 1)


def bad_files(good: bytes) -> list[bytes]:
    """Refused at the first step of judging, in the middle, and by the proof alone."""
    header, payload = take_apart(good)
    untrue = with_manifest(good, golden=[{"input": {"text": "good"}, "outputs": [0.5, 0.5]}], tolerance=1e-6)
    return [good[:-1], put_together(header, payload[:-8] + b"\xff" * 8), put_together(header, payload[::-1]), untrue]


class RegistryMachine(RuleBasedStateMachine):
    def __init__(self, place: Place, base: BaseModel, files: list[bytes], answers: dict[str, Floats]) -> None:
        super().__init__()
        self.place = place
        self.files = files
        self.answers = answers  # to ROW, by the digest of the file that gives it
        self.bad = bad_files(files[0])
        self.base = base
        self.replicas = [self.open() for _ in range(REPLICAS)]
        self.tasks: dict[str, Known] = {}  # as the store has them
        self.logs: dict[str, Log] = dict.fromkeys(TASKS, ())
        self.given: dict[tuple[str, int], str] = {}  # digests of all versions that ever were
        self.questions: list[Question] = []

    def open(self) -> Registry:
        return open_registry(self.base, self.place.open(), spare=1)

    def teardown(self) -> None:
        self.answer()
        self.place.close()

    @rule(by=BY, change=CHANGES)
    def change(self, by: int, change: Change) -> None:
        self.acknowledge(self.replicas[by], change)

    @rule(by=BY, task=st.sampled_from(TASKS), number=st.integers(0, 3), activate=st.booleans())
    def refuse(self, by: int, task: str, number: int, activate: bool) -> None:
        registry = self.replicas[by]
        before = self.place.content(), set(registry.residents())
        with pytest.raises(BadAdapter):
            registry.upload(task, self.bad[number], activate)
        assert (self.place.content(), set(registry.residents())) == before

    @rule(by=BY, task=st.sampled_from(TASKS), number=st.none() | st.integers(1, 6))
    def ask(self, by: int, task: str, number: int | None) -> None:
        """Whoever has not followed yet answers with what was active when it last did."""
        registry = self.replicas[by]
        known = seen(registry, task)
        wanted = known.active if number is None else number
        try:
            resident = registry.resident(task, number)
        except (UnknownTask, UnknownVersion):
            assert wanted not in known.versions or wanted not in self.tasks[task].versions
        else:
            assert wanted is not None
            assert (resident.version, resident.digest) == (wanted, self.given[task, wanted])
            self.questions.append(Question(Row(ROW, resident), resident.digest))

    @rule()
    def answer(self) -> None:
        """All that were asked, before whatever changes, in one batch."""
        for one, found in zip(self.questions, Engine(self.base).run([row for row, _ in self.questions]), strict=True):
            np.testing.assert_allclose(found, self.answers[one.content], atol=1e-4)
        self.questions = []

    @rule(by=BY)
    def follow(self, by: int) -> None:
        self.replicas[by].follow()
        self.assert_whole(self.replicas[by])

    @rule(by=BY, step=STEPS, late=st.booleans())
    def lose_the_store_while_following(self, by: int, step: int, late: bool) -> None:
        with self.place.fail(step, late), suppress(BadStore):
            self.replicas[by].follow()

    @rule(by=BY)
    def restart(self, by: int) -> None:
        self.replicas[by].close()
        self.replicas[by] = self.open()
        self.assert_whole(self.replicas[by])

    @rule(by=BY, change=CHANGES, step=STEPS, late=st.booleans())
    def kill(self, by: int, change: Change, step: int, late: bool) -> None:
        with self.place.kill(step, late) as happening, suppress(Killed):
            self.acknowledge(self.replicas[by], change)
        if happening.failed:
            self.take_over(change)
        self.restart(by)

    @rule(by=BY, change=CHANGES, step=STEPS, late=st.booleans())
    def fail(self, by: int, change: Change, step: int, late: bool) -> None:
        try:
            with self.place.fail(step, late):
                self.acknowledge(self.replicas[by], change)
        except StoreUnreachable:
            self.take_over(change)
        except BadStore:
            self.assert_whole(self.open())

    def acknowledge(self, registry: Registry, change: Change) -> None:
        expected, entries = self.expect(change), self.entries(change)
        if isinstance(expected, Known):
            self.perform(registry, change)
            log = self.grown(registry, change.task, entries)  # this may be cut off too
            self.learn(change.task, expected)
            self.logs[change.task] = log
        else:
            with pytest.raises(expected):
                self.perform(registry, change)

    def learn(self, task: str, known: Known) -> None:
        self.tasks[task] = known
        for number, content in known.versions.items():
            assert self.given.setdefault((task, number), content) == content

    def perform(self, registry: Registry, change: Change) -> None:
        verb, task, number = change
        acts: dict[str, Callable[[], object]] = {
            "upload": lambda: registry.upload(task, self.files[number], by="us"),
            "keep": lambda: registry.upload(task, self.files[number], activate=False, by="us"),
            "activate": lambda: registry.activate(task, number, by="us"),
            "delete": lambda: registry.delete(task, number, by="us"),
            "retire": lambda: registry.retire(task, by="us"),
            "nominate": lambda: registry.nominate(task, Candidate(version=number, mode="share", share=0.5), "us"),
            "promote": lambda: registry.promote(task, by="us"),
            "abandon": lambda: registry.abandon(task, by="us"),
        }
        acts[verb]()

    def expect(self, change: Change) -> Known | type[RootstockError]:
        """The task after the change, or the error that refuses it."""
        verb, task, number = change
        known = self.tasks.get(task)
        if verb in ("upload", "keep"):
            known, sent = known or Known(), digest(self.files[number])
            there = [version for version, content in known.versions.items() if content == sent]
            if not there:
                there = [known.last + 1]
                known = replace(known, versions={**known.versions, there[0]: sent}, last=there[0])
            return known.activated(there[0]) if verb == "upload" else known
        if known is None:
            return UnknownTask
        if verb == "retire":
            return Known(last=known.last)
        if verb in ("promote", "abandon"):
            if known.candidate is None:
                return UnknownCandidate
            return known.activated(known.candidate) if verb == "promote" else replace(known, candidate=None)
        if number not in known.versions:
            return UnknownVersion
        if verb == "activate":
            return known.activated(number)
        if verb == "nominate":
            if known.active is None:
                return UnknownTask
            taken = number == known.active or known.candidate not in (None, number)
            return Conflict if taken else replace(known, candidate=number)
        if number in (known.active, known.candidate):
            return Conflict
        return replace(known, versions={kept: data for kept, data in known.versions.items() if kept != number})

    def entries(self, change: Change) -> list[tuple[str, int | None, int | None, int | None]]:
        """What the change puts into the log: (did, version, before, after)."""
        before, after = self.tasks.get(change.task, Known()), self.expect(change)
        if not isinstance(after, Known):
            return []
        found: list[tuple[str, int | None, int | None, int | None]] = []
        if change.verb == "retire" and before.versions:
            found.append(("retire", None, before.active, None))
        found += [
            ("delete", number, after.active, after.active) for number in before.versions if number not in after.versions
        ]
        added = after.versions.keys() - before.versions.keys()
        if added or (after.active != before.active and after.active is not None):
            did = "upload" if added else "promote" if change.verb == "promote" else "activate"
            found.append((did, *(added or [after.active]), before.active, after.active))
        elif change.verb == "nominate" and after.candidate != before.candidate:
            found.append(("nominate", after.candidate, after.active, after.active))
        elif change.verb == "abandon":
            found.append(("abandon", before.candidate, after.active, after.active))
        return found

    def grown(
        self, registry: Registry, task: str, entries: list[tuple[str, int | None, int | None, int | None]]
    ) -> Log:
        """The log as it is: what it was, and these entries."""
        known, log = self.logs[task], registry.log(task)
        assert log[: len(known)] == known
        assert [(one.did, one.version, one.before, one.after) for one in log[len(known) :]] == entries
        assert {one.by for one in log} <= {"us"}
        return log

    def take_over(self, change: Change) -> None:
        """A change that was cut off is done or not done; of an upload there may also be the file alone."""
        registry, entries = self.open(), self.entries(change)
        before, after = self.tasks.get(change.task), self.expect(change)
        old = before or Known()
        new = after if isinstance(after, Known) else old
        found = seen(registry, change.task)
        alone = replace(new, active=old.active, candidate=old.candidate) if change.verb == "upload" else new
        assert found in (old, new, alone)
        if before or found != Known():
            self.learn(change.task, found)
            log = registry.log(change.task)
            done = len(log) > len(self.logs[change.task])
            assert not done or found == new
            self.logs[change.task] = self.grown(registry, change.task, entries if done else [])
        self.assert_whole(registry)

    def assert_whole(self, registry: Registry) -> None:
        """What was acknowledged is served, byte for byte, by whoever has just read the store."""
        assert all(task.behind is None for task in registry.tasks())
        for name, known in self.tasks.items():
            assert seen(registry, name) == known
            assert registry.log(name) == self.logs[name]
            for number, content in known.versions.items():
                assert digest(registry.file(name, number)) == content
        active = [name for name, known in self.tasks.items() if known.active is not None]
        assert registry.names() == sorted([BARE_TASK, *active])

    @invariant()
    def each_replica_serves_what_its_log_says(self) -> None:
        for registry in self.replicas:
            for task in registry.tasks():
                if task.behind is not None:  # the store was away when it was to be read
                    assert "cannot be read" in task.behind.reason
                    continue
                if task.log:
                    assert task.log[-1].after == task.active
                    assert task.log[-1].candidate == task.candidate
                    assert self.logs[task.name][task.earlier : task.earlier + len(task.log)] == task.log
                if task.active is not None:
                    assert registry.resident(task.name).digest == self.given[task.name, task.active]


def seen(registry: Registry, name: str) -> Known:
    """The task as the registry tells it."""
    try:
        task = registry.task(name)
    except UnknownTask:
        return Known()
    digests = {number: version.digest for number, version in task.versions.items()}
    return Known(digests, task.active, task.last, task.candidate.version if task.candidate is not None else None)


@pytest.mark.parametrize("place", [Folder, Objects])
def test_nothing_acknowledged_is_ever_lost(
    place: Callable[[], Place], tiny_base: BaseModel, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(place, tiny_base, files, monkeypatch)


@pytest.mark.slow
def test_nothing_acknowledged_is_ever_lost_over_http(
    s3: Endpoint, tiny_base: BaseModel, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(lambda: Objects(from_url(s3.bucket(), client_options=CLIENT)), tiny_base, files, monkeypatch, examples=20)


def run(
    place: Callable[[], Place],
    base: BaseModel,
    files: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    examples: int | None = None,
) -> None:
    for module in ("log", "served", "registry"):
        monkeypatch.setattr(f"service.registry.{module}.PART", 4)  # so that logs are parted
    engine = Engine(base)
    answers = {digest(data): alone(engine, Row(ROW, load_resident(base, data, 1))) for data in files}
    run_state_machine_as_test(
        lambda: RegistryMachine(place(), base, files, answers),  # type: ignore[arg-type]  # any factory will do
        settings=settings(max_examples=examples or settings().max_examples, stateful_step_count=25),
    )
