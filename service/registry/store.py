"""The store: files that are the truth about what is served, whoever else reads and changes them meanwhile.

    <task>-<version>.safetensors   one adapter version, never changed once it is there
    <task>.json                    the task's state: which version is active, which is its candidate, which there are,
                                   what happened lately
    <task>-<number>.log            what happened before: `log.PART` entries from that one on, a line each, never changed

A task without its .json serves its highest version: copying a file into the store is a way to install it. A version's
file is created only where none is, and a state replaced only where it is still the one that was read; so a number is
given once and no change is lost, however many services have the store. A kill at any moment leaves the old state or
the new one.
"""

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.adapters.manifest import TASK_NAME
from service.errors import BadStore
from service.registry.log import Entry, Log
from service.registry.proof import Proof
from service.registry.release import Candidate

_TASK = f"(?P<task>{TASK_NAME.strip('^$')})"
ADAPTER_FILE = re.compile(rf"{_TASK}-(?P<version>[1-9][0-9]*)\.safetensors")
STATE_FILE = re.compile(rf"{_TASK}\.json")


class Given(BaseModel):
    """What a state remembers of a version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: str
    proof: Proof | None = None


class State(BaseModel):
    """What is remembered of a task beside its files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    active: int | None = Field(ge=1)
    candidate: Candidate | None = None
    last: int = Field(ge=0, description="the highest number ever given")
    versions: dict[int, Given] | None = Field(
        default=None, description="those there are, up to `last`; files of other numbers are none. null: all files are"
    )
    earlier: int = Field(default=0, ge=0, description="entries of the log that are in files of their own")
    log: Log = ()

    @model_validator(mode="after")
    def _refuse_a_candidate_alone(self) -> Self:
        if self.candidate is not None and self.active in (None, self.candidate.version):
            raise ValueError("a candidate stands beside another version that is active")
        return self


class Kept(NamedTuple):
    """A state as it was read."""

    state: State | BadStore  # or why it cannot be read
    tag: str


@dataclass(frozen=True)
class Found:
    """What a listing shows of one task. A tag is another one whenever its file has changed."""

    versions: dict[int, str] = field(default_factory=dict)  # number → tag, lowest first
    state: str | None = None  # tag; None: there is none


class Look(NamedTuple):
    """A file from outside."""

    digest: str
    size: int  # bytes
    head: bytes  # its first `HEAD_BYTES`, or as many as its header has
    tag: str


class Content(NamedTuple):
    """A whole file, for as long as it is being read."""

    data: memoryview  # used for another file afterwards
    tag: str


class Changed(Exception):
    """Somebody else has changed the state meanwhile; nothing was written."""


class Store(Protocol):
    """Every method but `close` and `free_bytes` raises BadStore; StoreUnreachable, if nothing was heard of the store.

    After StoreUnreachable a write may have happened or not.
    """

    hashes: bool  # whether `look` reads whole files, so that digests it gives are theirs

    def close(self) -> None: ...

    def free_bytes(self) -> float:
        """Room that is left; not a number where nobody can say."""

    def list(self) -> dict[str, Found]:
        """Every task that has a file or a state."""

    def state(self, task: str, known: Kept | None = None) -> Kept | None:
        """A task's state; None: there is none. The one that is `known`, if it has not changed, is not parsed again."""

    def write_state(self, task: str, state: State, before: str | None) -> str:
        """Replaces a task's state, and returns its tag.

        Args:
            before: the tag of the one that is to be replaced; None: there is to be none.

        Raises:
            Changed: it is another.
        """

    def archive(self, task: str, first: int, log: Log) -> None:
        """Keeps entries of the log from number `first` on in a file of their own; where it is there, it stays."""

    def archived(self, task: str, first: int) -> Log: ...

    def write(self, task: str, version: int, data: bytes) -> str:
        """Adds a file, and returns its tag.

        Raises:
            FileExistsError: one of that name is there; it is left alone.
        """

    def remove(self, task: str, version: int) -> None:
        """Removes a file, where it is there."""

    def read(self, task: str, version: int) -> bytes:
        """A file's bytes.

        Raises:
            UnknownVersion
        """

    def reading(self, task: str, version: int) -> AbstractContextManager[Content]:
        """The same, without a copy.

        Raises:
            UnknownVersion
        """

    def look(self, task: str, version: int, digest: str | None = None) -> Look:
        """Looks at a file without taking it into memory.

        Args:
            digest: what it is said to be; a store that need not read all of the file believes it.

        Raises:
            UnknownVersion
        """


def adapter_file(task: str, version: int) -> str:
    return f"{task}-{version}.safetensors"


def state_file(task: str) -> str:
    return f"{task}.json"


def log_file(task: str, first: int) -> str:
    return f"{task}-{first}.log"


def found_in(tags: Iterable[tuple[str, str]]) -> dict[str, Found]:
    """A listing's names and tags by task; other files are nobody's."""
    versions: dict[str, dict[int, str]] = {}
    states: dict[str, str] = {}
    for name, tag in tags:
        if match := ADAPTER_FILE.fullmatch(name):
            versions.setdefault(match["task"], {})[int(match["version"])] = tag
        elif match := STATE_FILE.fullmatch(name):
            states[match["task"]] = tag
    return {
        task: Found(dict(sorted(versions.get(task, {}).items())), states.get(task))
        for task in sorted(versions.keys() | states.keys())
    }


def parse_state(task: str, data: bytes) -> State | BadStore:
    try:
        return State.model_validate_json(data)
    except ValidationError as error:
        return BadStore(f"store: {state_file(task)} is not a task's state: {_first(error)}")


def write_lines(log: Log) -> bytes:
    return b"".join(entry.model_dump_json().encode() + b"\n" for entry in log)


def parse_lines(task: str, first: int, data: bytes) -> Log:
    """Raises:
    BadStore
    """
    try:
        return tuple(Entry.model_validate_json(line) for line in data.splitlines())
    except ValidationError as error:
        raise BadStore(f"store: {log_file(task, first)} is not a part of a log: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return " ".join([*map(repr, first["loc"]), first["msg"]])
