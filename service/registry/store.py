"""The store: a folder whose files are the truth about what is served.

    <task>-<version>.safetensors   one adapter version, never changed once it is there
    <task>.json                    {"active": version or null, "candidate": what is tried out beside it or null,
                                    "last": highest version ever given, "log": [changes]}

A task without its .json serves its highest version: copying a file into the folder is a way to install it.
Every write goes to a temporary file first, reaches the disk, and takes its name in one step, so a kill at any moment
leaves the old state or the new one; a write or removal that fails leaves the old one. One service has the folder at
a time: it holds a lock on `.lock`, which ends with its process however that ends.
"""

import errno
import fcntl
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from math import nan
from pathlib import Path
from shutil import disk_usage
from typing import NamedTuple, Self
from weakref import finalize

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.adapters.file import HEAD_BYTES
from service.adapters.manifest import TASK_NAME
from service.errors import BadStore, UnknownVersion
from service.registry.log import Log
from service.registry.release import Candidate

log = logging.getLogger(__name__)

ADAPTER_FILE = re.compile(r"(?P<task>[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?)-(?P<version>[1-9][0-9]*)\.safetensors")
TEMPORARY = ".writing-"
LOCK = ".lock"
MAX_BUFFER = 16 * 1024 * 1024  # bytes of one that is kept to be read into again


class State(BaseModel):
    """What is remembered of a task beside its files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    active: int | None = Field(ge=1)
    candidate: Candidate | None = None
    last: int = Field(ge=0)
    log: Log = ()

    @model_validator(mode="after")
    def _refuse_a_candidate_alone(self) -> Self:
        if self.candidate is not None and self.active in (None, self.candidate.version):
            raise ValueError("a candidate stands beside another version that is active")
        return self


class Look(NamedTuple):
    """A file from outside."""

    digest: str
    size: int  # bytes
    head: bytes  # its first `HEAD_BYTES`
    tag: str  # another one whenever the file was changed


class Content(NamedTuple):
    """A whole file, for as long as it is being read."""

    data: memoryview  # used for another file afterwards
    tag: str


class FolderStore:
    def __init__(self, folder: Path) -> None:
        """Opens the folder, making it if need be, and clears what an interrupted write left behind.

        Raises:
            BadStore: it is no folder, or another service has it.
        """
        self._folder = folder
        self._lock: finalize[[int], FolderStore] | None = None
        self._buffers: list[bytearray] = []  # as many as were read into at once
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._take()
            for leftover in folder.glob(f"{TEMPORARY}*"):
                with suppress(OSError):  # a read-only store is still good for serving
                    leftover.unlink()
        except OSError as error:
            raise BadStore(f"store {folder}: {error.strerror}") from error

    def close(self) -> None:
        """Lets another service have the folder."""
        if self._lock:
            self._lock()

    def free_bytes(self) -> float:
        """Room that is left on the disk; not a number where nobody can say."""
        try:
            return disk_usage(self._folder).free
        except OSError:
            return nan

    def versions(self) -> dict[str, list[int]]:
        """Every task's versions, lowest first."""
        found: dict[str, list[int]] = {}
        try:
            names = [entry.name for entry in os.scandir(self._folder)]
        except OSError as error:
            raise BadStore(f"store {self._folder}: {error.strerror}") from error
        for name in names:
            if match := ADAPTER_FILE.fullmatch(name):
                found.setdefault(match["task"], []).append(int(match["version"]))
        return {task: sorted(numbers) for task, numbers in sorted(found.items())}

    def states(self) -> dict[str, State | BadStore]:
        """Every task's remembered state, of tasks without a file too; or why it cannot be read."""
        states: dict[str, State | BadStore] = {}
        for path in self._folder.glob("*.json"):
            if re.fullmatch(TASK_NAME, path.stem):
                states[path.stem] = _read_state(path)
        return states

    def read(self, task: str, version: int) -> bytes:
        """A file's bytes.

        Raises:
            UnknownVersion, BadStore
        """
        with self._open(task, version) as file:
            return file.read()

    @contextmanager
    def reading(self, task: str, version: int) -> Iterator[Content]:
        """A file's bytes, in memory that is used again: fresh pages would take longer to get than to fill.

        Raises:
            UnknownVersion, BadStore
        """
        with self._open(task, version) as file:
            size = os.fstat(file.fileno()).st_size
            buffer = self._buffers.pop() if self._buffers else bytearray()
            if len(buffer) < size:
                buffer = bytearray(size)
            data = memoryview(buffer)[:size]
            if file.readinto(data) != size:
                raise OSError(errno.EIO, "the file has changed meanwhile")
            yield Content(data, _tag(file))
            if len(buffer) <= MAX_BUFFER:
                self._buffers.append(buffer)

    def look(self, task: str, version: int) -> Look:
        """Looks at a file without taking it into memory.

        Raises:
            UnknownVersion, BadStore
        """
        with self._open(task, version) as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            file.seek(0)
            return Look(content, size, file.read(HEAD_BYTES), _tag(file))

    def write(self, task: str, version: int, data: bytes) -> str:
        """Adds a file, and returns its tag.

        Raises:
            FileExistsError: one of that name is there; it is left alone.
            BadStore
        """
        path = self._path(task, version)
        try:
            temporary = self._write_temporary(data)
            named = [temporary]
            try:
                os.link(temporary, path)  # a rename would replace what is there
                named.append(path)
                temporary.unlink()
                self._settle()
                with path.open("rb") as file:
                    return _tag(file)
            except OSError:
                for name in named:
                    with suppress(OSError):
                        name.unlink()
                raise
        except FileExistsError:
            raise
        except OSError as error:
            raise _unwritten(path, error) from error

    def write_state(self, task: str, state: State) -> None:
        path = self._folder / f"{task}.json"
        try:
            before = path.read_bytes() if path.exists() else None
            self._replace(path, state.model_dump_json().encode())
            try:
                self._settle()
            except OSError:
                with suppress(OSError):
                    path.unlink() if before is None else self._replace(path, before)
                raise
        except OSError as error:
            raise _unwritten(path, error) from error

    def remove(self, task: str, version: int) -> None:
        path = self._path(task, version)
        aside = self._folder / f"{TEMPORARY}{path.name}"
        try:
            path.replace(aside)
            self._settle()
        except FileNotFoundError:
            return
        except OSError as error:
            with suppress(OSError):
                aside.replace(path)
            raise BadStore(f"store: {path.name} cannot be removed: {error.strerror}") from error
        with suppress(OSError):  # the next opening clears it
            aside.unlink()

    def _take(self) -> None:
        """Keeps other services off the folder until `close`, or until this object or its process ends."""
        if not os.access(self._folder, os.W_OK):
            return  # any number of services may read it
        try:
            descriptor = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            self._lock = finalize(self, os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise BadStore(f"store {self._folder} is in use by another service") from error
        except OSError as error:
            log.warning("store %s cannot be locked: %s; start no second service on it", self._folder, error.strerror)

    def _path(self, task: str, version: int) -> Path:
        return self._folder / f"{task}-{version}.safetensors"

    @contextmanager
    def _open(self, task: str, version: int) -> Iterator[BufferedReader]:
        path = self._path(task, version)
        try:
            with path.open("rb") as file:
                yield file
        except FileNotFoundError as error:
            raise UnknownVersion(f"task {task} has no version {version}: its file is missing") from error
        except OSError as error:
            raise BadStore(f"store: {path.name} cannot be read: {error.strerror}") from error

    def _write_temporary(self, data: bytes) -> Path:
        """A new file that has reached the disk, and waits for its name."""
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=TEMPORARY, delete=False) as file:
            temporary = Path(file.name)
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                temporary.chmod(0o644)
            except OSError:
                with suppress(OSError):
                    temporary.unlink()
                raise
        return temporary

    def _replace(self, path: Path, data: bytes) -> None:
        temporary = self._write_temporary(data)
        try:
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise

    def _settle(self) -> None:
        """A new name is on the disk only when its folder is."""
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _tag(file: BufferedReader) -> str:
    facts = os.fstat(file.fileno())
    return f"{facts.st_ino}-{facts.st_size}-{facts.st_mtime_ns}"


def _read_state(path: Path) -> State | BadStore:
    try:
        return State.model_validate_json(path.read_bytes())
    except OSError as error:
        return BadStore(f"store: {path.name} cannot be read: {error.strerror}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        cause = " ".join([*map(repr, first["loc"]), first["msg"]])
        return BadStore(f"store: {path.name} is not a task's state: {cause}")


def _unwritten(path: Path, error: OSError) -> BadStore:
    return BadStore(f"store: {path.name} cannot be written: {error.strerror}")
