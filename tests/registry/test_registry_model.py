"""Any order of changes, restarts, failing disks and kills: nothing acknowledged is ever lost."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from service.adapters.file import digest
from service.engine.bank import BARE_TASK
from service.engine.base_model import BaseModel
from service.errors import BadStore, Conflict, RootstockError, UnknownTask, UnknownVersion
from service.registry.registry import Registry
from tests.registry.disks import FULL, Killed, open_registry, served, trouble

TASKS = ("toy", "spam")


class Change(NamedTuple):
    verb: Literal["upload", "keep", "activate", "delete", "retire"]
    task: str
    number: int  # of the file, or of the version


@dataclass(frozen=True)
class Known:
    """A task as it was acknowledged."""

    versions: dict[int, bytes] = field(default_factory=dict)
    active: int | None = None
    last: int = 0


CHANGES = st.one_of(
    st.builds(Change, st.sampled_from(["upload", "keep"]), st.sampled_from(TASKS), st.integers(0, 4)),
    st.builds(Change, st.sampled_from(["activate", "delete"]), st.sampled_from(TASKS), st.integers(1, 6)),
    st.builds(Change, st.just("retire"), st.sampled_from(TASKS), st.just(0)),
)
STEPS = st.integers(0, 24)  # an upload takes about 20


class RegistryMachine(RuleBasedStateMachine):
    def __init__(self, base: BaseModel, files: list[bytes]) -> None:
        super().__init__()
        self.files = files
        self.folder = TemporaryDirectory()
        self.base = base
        self.registry = self.open()
        self.tasks: dict[str, Known] = {}

    def open(self) -> Registry:
        return open_registry(self.base, Path(self.folder.name), spare=1)

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(change=CHANGES)
    def change(self, change: Change) -> None:
        self.acknowledge(change)

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
        with trouble(step, FULL):
            try:
                self.acknowledge(change)
            except BadStore:
                if change.verb == "retire":
                    self.take_over(change)
        assert served(self.registry) == served(self.open())

    def acknowledge(self, change: Change) -> None:
        expected = self.expect(change)
        if isinstance(expected, Known):
            self.perform(change)
            self.tasks[change.task] = expected
        else:
            with pytest.raises(expected):
                self.perform(change)

    def perform(self, change: Change) -> None:
        verb, task, number = change
        acts: dict[str, Callable[[], object]] = {
            "upload": lambda: self.registry.upload(task, self.files[number]),
            "keep": lambda: self.registry.upload(task, self.files[number], activate=False),
            "activate": lambda: self.registry.activate(task, number),
            "delete": lambda: self.registry.delete(task, number),
            "retire": lambda: self.registry.retire(task),
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
                known = Known({**known.versions, there[0]: data}, known.active, there[0])
            return replace(known, active=there[0]) if verb == "upload" else known
        if known is None:
            return UnknownTask
        if verb == "retire":
            return Known(last=known.last)
        if number not in known.versions:
            return UnknownVersion
        if verb == "activate":
            return replace(known, active=number)
        if number == known.active:
            return Conflict
        return replace(known, versions={kept: data for kept, data in known.versions.items() if kept != number})

    def found(self, name: str) -> Known:
        """The task as the registry tells it."""
        try:
            task = self.registry.task(name)
        except UnknownTask:
            return Known()
        return Known({number: self.registry.file(name, number) for number in task.versions}, task.active, task.last)

    def take_over(self, change: Change) -> None:
        """A change that was cut off is done, or not done, or its files are half gone; nothing else has moved."""
        before, after = self.tasks.get(change.task), self.expect(change)
        old = before or Known()
        new = after if isinstance(after, Known) else old
        found = self.found(change.task)
        assert found.active in (old.active, new.active)
        assert old.versions.items() & new.versions.items() <= found.versions.items()
        assert found.versions.items() <= old.versions.items() | new.versions.items()
        assert found.last in (old.last, new.last)
        if before or found != Known():
            self.tasks[change.task] = found

    @invariant()
    def what_was_acknowledged_is_served(self) -> None:
        for name, known in self.tasks.items():
            assert self.found(name) == known
            if known.active is not None:
                assert self.registry.resident(name).digest == digest(known.versions[known.active])
        active = [name for name, known in self.tasks.items() if known.active is not None]
        assert self.registry.names() == sorted([BARE_TASK, *active])


def test_nothing_acknowledged_is_ever_lost(tiny_base: BaseModel, files: list[bytes]) -> None:
    run_state_machine_as_test(
        lambda: RegistryMachine(tiny_base, files),  # type: ignore[arg-type]  # any factory will do
        settings=settings(stateful_step_count=20),
    )
