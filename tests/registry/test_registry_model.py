"""Any order of changes, refusals, restarts, failing disks, kills, and questions under way: each answer is of the
version that the log says, nothing acknowledged is lost, nothing refused leaves a trace."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from service.adapters.file import digest
from service.engine.arranging import load_resident
from service.engine.bank import BARE_TASK
from service.engine.base_model import BaseModel
from service.engine.engine import Engine, Row
from service.errors import BadAdapter, BadStore, Conflict, RootstockError, UnknownCandidate, UnknownTask, UnknownVersion
from service.registry.log import Log
from service.registry.registry import Registry
from service.registry.release import Candidate
from service.tasks import Floats
from tests.adapters.forge import put_together, take_apart, with_manifest
from tests.registry.disks import FULL, Killed, listing, open_registry, served, trouble
from tests.tiny import alone, random_row

TASKS = ("toy", "spam")
ROW = random_row(7)  # what every question asks


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

    versions: dict[int, bytes] = field(default_factory=dict)
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
STEPS = st.integers(0, 24)  # an upload takes about 20


def bad_files(good: bytes) -> list[bytes]:
    """Refused at the first step of judging, in the middle, and by the proof alone."""
    header, payload = take_apart(good)
    untrue = with_manifest(good, golden=[{"input": {"text": "good"}, "outputs": [0.5, 0.5]}], tolerance=1e-6)
    return [good[:-1], put_together(header, payload[:-8] + b"\xff" * 8), put_together(header, payload[::-1]), untrue]


class RegistryMachine(RuleBasedStateMachine):
    def __init__(self, base: BaseModel, files: list[bytes], answers: dict[str, Floats]) -> None:
        super().__init__()
        self.files = files
        self.answers = answers  # to ROW, by the digest of the file that gives it
        self.bad = bad_files(files[0])
        self.folder = TemporaryDirectory()
        self.base = base
        self.registry = self.open()
        self.tasks: dict[str, Known] = {}
        self.logs: dict[str, Log] = dict.fromkeys(TASKS, ())
        self.questions: list[Question] = []

    def open(self) -> Registry:
        return open_registry(self.base, Path(self.folder.name), spare=1)

    def teardown(self) -> None:
        self.answer()
        self.folder.cleanup()

    @rule(change=CHANGES)
    def change(self, change: Change) -> None:
        self.acknowledge(change)

    @rule(task=st.sampled_from(TASKS), number=st.integers(0, 3), activate=st.booleans())
    def refuse(self, task: str, number: int, activate: bool) -> None:
        before = listing(Path(self.folder.name)), set(self.registry.residents())
        with pytest.raises(BadAdapter):
            self.registry.upload(task, self.bad[number], activate)
        assert (listing(Path(self.folder.name)), set(self.registry.residents())) == before

    @rule(task=st.sampled_from(TASKS), number=st.none() | st.integers(1, 6))
    def ask(self, task: str, number: int | None) -> None:
        known = self.tasks.get(task, Known())
        content = known.versions.get(known.active or 0 if number is None else number)
        if content is None:
            with pytest.raises((UnknownTask, UnknownVersion)):
                self.registry.resident(task, number)
        else:
            resident = self.registry.resident(task, number)
            assert resident.digest == digest(content)
            self.questions.append(Question(Row(ROW, resident), resident.digest))

    @rule()
    def answer(self) -> None:
        """All that were asked, before whatever changes, in one batch."""
        for one, found in zip(self.questions, Engine(self.base).run([row for row, _ in self.questions]), strict=True):
            np.testing.assert_allclose(found, self.answers[one.content], atol=1e-4)
        self.questions = []

    @rule()
    def restart(self) -> None:
        self.registry = self.open()

    @rule(change=CHANGES, step=STEPS)
    def kill(self, change: Change, step: int) -> None:
        with trouble(step, Killed()) as disk, suppress(Killed):
            self.acknowledge(change)
        self.restart()
        if disk.failed:
            self.take_over(change)

    @rule(change=CHANGES, step=STEPS)
    def fail(self, change: Change, step: int) -> None:
        with trouble(step, FULL), suppress(BadStore):
            self.acknowledge(change)
        assert served(self.registry) == served(self.open())

    def acknowledge(self, change: Change) -> None:
        expected, entries = self.expect(change), self.entries(change)
        if isinstance(expected, Known):
            self.perform(change)
            self.tasks[change.task] = expected
            self.logs[change.task] = self.grown(change.task, entries)
        else:
            with pytest.raises(expected):
                self.perform(change)

    def perform(self, change: Change) -> None:
        verb, task, number = change
        acts: dict[str, Callable[[], object]] = {
            "upload": lambda: self.registry.upload(task, self.files[number], by="us"),
            "keep": lambda: self.registry.upload(task, self.files[number], activate=False, by="us"),
            "activate": lambda: self.registry.activate(task, number, by="us"),
            "delete": lambda: self.registry.delete(task, number, by="us"),
            "retire": lambda: self.registry.retire(task, by="us"),
            "nominate": lambda: self.registry.nominate(task, Candidate(version=number, mode="share", share=0.5), "us"),
            "promote": lambda: self.registry.promote(task, by="us"),
            "abandon": lambda: self.registry.abandon(task, by="us"),
        }
        acts[verb]()

    def expect(self, change: Change) -> Known | type[RootstockError]:
        """The task after the change, or the error that refuses it."""
        verb, task, number = change
        known = self.tasks.get(task)
        if verb in ("upload", "keep"):
            known, data = known or Known(), self.files[number]
            there = [version for version, content in known.versions.items() if content == data]
            if not there:
                there = [known.last + 1]
                known = replace(known, versions={**known.versions, there[0]: data}, last=there[0])
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

    def grown(self, task: str, entries: list[tuple[str, int | None, int | None, int | None]]) -> Log:
        """The log as it is: what it was, and these entries."""
        known, log = self.logs[task], self.registry.task(task).log
        assert log[: len(known)] == known
        assert [(one.did, one.version, one.before, one.after) for one in log[len(known) :]] == entries
        assert {one.by for one in log} <= {"us"}
        return log

    def found(self, name: str) -> Known:
        """The task as the registry tells it."""
        try:
            task = self.registry.task(name)
        except UnknownTask:
            return Known()
        files = {number: self.registry.file(name, number) for number in task.versions}
        return Known(files, task.active, task.last, task.candidate.version if task.candidate is not None else None)

    def take_over(self, change: Change) -> None:
        """A change that was cut off is done or not done; of an upload there may also be the file alone."""
        entries = self.entries(change)
        before, after = self.tasks.get(change.task), self.expect(change)
        old = before or Known()
        new = after if isinstance(after, Known) else old
        found = self.found(change.task)
        alone = replace(new, active=old.active, candidate=old.candidate) if change.verb == "upload" else new
        assert found in (old, new, alone)
        if before or found != Known():
            self.tasks[change.task] = found
            log = self.registry.task(change.task).log
            done = len(log) > len(self.logs[change.task])
            assert not done or found == new
            self.logs[change.task] = self.grown(change.task, entries if done else [])

    @invariant()
    def what_was_acknowledged_is_served(self) -> None:
        for name, known in self.tasks.items():
            assert self.found(name) == known
            assert self.registry.task(name).log == self.logs[name]
            if self.logs[name]:
                assert self.logs[name][-1].after == known.active
                candidate = self.logs[name][-1].candidate
                assert (candidate.version if candidate is not None else None) == known.candidate
            if known.active is not None:
                assert self.registry.resident(name).digest == digest(known.versions[known.active])
        active = [name for name, known in self.tasks.items() if known.active is not None]
        assert self.registry.names() == sorted([BARE_TASK, *active])


def test_nothing_acknowledged_is_ever_lost(tiny_base: BaseModel, files: list[bytes]) -> None:
    engine = Engine(tiny_base)
    answers = {digest(data): alone(engine, Row(ROW, load_resident(tiny_base, data, 1))) for data in files}
    run_state_machine_as_test(
        lambda: RegistryMachine(tiny_base, files, answers),  # type: ignore[arg-type]  # any factory will do
        settings=settings(stateful_step_count=20),
    )
