"""A folder as the store, for one service or for several that share it.

Every write goes to a temporary file first, reaches the disk, and takes its name in one step; one that fails leaves
what was there. A state is compared and replaced under a lock on `.changing`. As long as it lives, each service has a
share of a lock on `.lock`; whoever is alone when it starts clears what interrupted writes left behind. Both locks end
with their process, however that ends.
"""

import errno
import fcntl
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from math import nan
from pathlib import Path
from shutil import disk_usage
from weakref import finalize

from service.adapters.file import HEAD_BYTES
from service.errors import BadStore, StoreFull, StoreReadOnly, UnknownVersion
from service.registry.log import Log
from service.registry.store import (
    Changed,
    Content,
    Found,
    Kept,
    Look,
    State,
    adapter_file,
    found_in,
    log_file,
    parse_lines,
    parse_state,
    state_file,
    write_lines,
)

log = logging.getLogger(__name__)

TEMPORARY = ".writing-"
LOCK, CHANGING = ".lock", ".changing"
# What the disk says, and what that means for a change.
REFUSALS = {
    errno.ENOSPC: StoreFull,
    errno.EDQUOT: StoreFull,
    errno.EFBIG: StoreFull,
    errno.EROFS: StoreReadOnly,
    errno.EACCES: StoreReadOnly,
    errno.EPERM: StoreReadOnly,
}
MAX_BUFFER = 16 * 1024 * 1024  # bytes of one that is kept to be read into again


class FolderStore:
    hashes = True

    def __init__(self, folder: Path) -> None:
        """Opens the folder, making it if need be.

        Raises:
            BadStore: it is no folder.
        """
        self._folder = folder
        self._share: finalize[[int], FolderStore] | None = None  # of the lock; None: this disk has none
        self._buffers: list[bytearray] = []  # as many as were read into at once
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                self._join()
            folder.stat()
        except OSError as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Gives its share of the lock back."""
        if self._share:
            self._share()

    def free_bytes(self) -> float:
        try:
            return disk_usage(self._folder).free
        except OSError:
            return nan

    def list(self) -> dict[str, Found]:
        tags = list[tuple[str, str]]()
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # gone since
                        tags.append((entry.name, _tag(entry.stat())))
        except OSError as error:
            raise self._unusable(error) from error
        return found_in(tags)

    def state(self, task: str, known: Kept | None = None) -> Kept | None:
        path = self._folder / state_file(task)
        try:
            with path.open("rb") as file:
                tag = _tag(os.fstat(file.fileno()))
                if known is not None and known.tag == tag:
                    return known
                data = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            return Kept(_unreadable(path, error), _tag_of(path) or "")
        return Kept(parse_state(task, data), tag)

    def write_state(self, task: str, state: State, before: str | None) -> str:
        path = self._folder / state_file(task)
        try:
            with self._changing():
                if _tag_of(path) != before:
                    raise Changed
                old = None if before is None else path.read_bytes()
                self._replace(path, state.model_dump_json().encode())
                try:
                    self._settle()
                    return _tag(path.stat())
                except OSError:
                    with suppress(OSError):
                        path.unlink() if old is None else self._replace(path, old)
                    raise
        except OSError as error:
            raise _unchanged(path, "written", error) from error

    def archive(self, task: str, first: int, log: Log) -> None:
        with suppress(FileExistsError):
            self._create(self._folder / log_file(task, first), write_lines(log))

    def archived(self, task: str, first: int) -> Log:
        path = self._folder / log_file(task, first)
        try:
            return parse_lines(task, first, path.read_bytes())
        except OSError as error:
            raise _unreadable(path, error) from error

    def write(self, task: str, version: int, data: bytes) -> str:
        return self._create(self._folder / adapter_file(task, version), data)

    def remove(self, task: str, version: int) -> None:
        path = self._folder / adapter_file(task, version)
        aside = self._folder / f"{TEMPORARY}{path.name}"
        try:
            path.replace(aside)
            self._settle()
        except FileNotFoundError:
            return
        except OSError as error:
            with suppress(OSError):
                aside.replace(path)
            raise _unchanged(path, "removed", error) from error
        with suppress(OSError):  # a later start clears it
            aside.unlink()

    def read(self, task: str, version: int) -> bytes:
        with self._open(task, version) as file:
            return file.read()

    @contextmanager
    def reading(self, task: str, version: int) -> Iterator[Content]:
        """In memory that is used again: fresh pages would take longer to get than to fill."""
        with self._open(task, version) as file:
            size = os.fstat(file.fileno()).st_size
            buffer = self._buffers.pop() if self._buffers else bytearray()
            if len(buffer) < size:
                buffer = bytearray(size)
            data = memoryview(buffer)[:size]
            if file.readinto(data) != size:
                raise OSError(errno.EIO, "the file has changed meanwhile")
            yield Content(data, _tag(os.fstat(file.fileno())))
            if len(buffer) <= MAX_BUFFER:
                self._buffers.append(buffer)

    def look(self, task: str, version: int, digest: str | None = None) -> Look:
        with self._open(task, version) as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            file.seek(0)
            return Look(content, size, file.read(HEAD_BYTES), _tag(os.fstat(file.fileno())))

    def _join(self) -> None:
        """Takes a share of the lock until `close`, or until this object or its process ends."""
        try:
            descriptor = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            self._share = finalize(self, os.close, descriptor)
            with suppress(BlockingIOError):  # others are here, and may be writing
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._clear()
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        except OSError as error:
            self.close()
            self._share = None
            log.warning("store %s cannot be locked: %s; start no second service on it", self._folder, error.strerror)

    def _clear(self) -> None:
        for leftover in self._folder.glob(f"{TEMPORARY}*"):
            with suppress(OSError):
                leftover.unlink()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Keeps other services from changing a state meanwhile."""
        if self._share is None:
            yield
            return
        descriptor = os.open(self._folder / CHANGING, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _open(self, task: str, version: int) -> Iterator[BufferedReader]:
        path = self._folder / adapter_file(task, version)
        try:
            with path.open("rb") as file:
                yield file
        except FileNotFoundError as error:
            raise UnknownVersion(f"task {task} has no version {version}: its file is missing") from error
        except OSError as error:
            raise _unreadable(path, error) from error

    def _create(self, path: Path, data: bytes) -> str:
        """Writes a new file, and returns its tag.

        Raises:
            FileExistsError, BadStore
        """
        try:
            temporary = self._write_temporary(data)
            named = [temporary]
            try:
                os.link(temporary, path)  # a rename would replace what is there
                named.append(path)
                temporary.unlink()
                self._settle()
                return _tag(path.stat())
            except OSError:
                for name in named:
                    with suppress(OSError):
                        name.unlink()
                raise
        except FileExistsError:
            raise
        except OSError as error:
            raise _unchanged(path, "written", error) from error

    def _write_temporary(self, data: bytes) -> Path:
        """A new file that has reached the disk, and waits for its name."""
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=TEMPORARY, delete=False) as file:
            temporary = Path(file.name)
            try:
                file.write(data)
                file.flush()
                now = time.time_ns()
                os.utime(file.fileno(), ns=(now, now))  # the file system's own clock ticks slowly, and tags must differ
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

    def _unusable(self, error: OSError) -> BadStore:
        return BadStore(f"store {self._folder}: {error.strerror}")


def _tag(facts: os.stat_result) -> str:
    return f"{facts.st_ino}-{facts.st_size}-{facts.st_mtime_ns}"


def _tag_of(path: Path) -> str | None:
    try:
        return _tag(path.stat())
    except FileNotFoundError:
        return None


def _unreadable(path: Path, error: OSError) -> BadStore:
    return BadStore(f"store: {path.name} cannot be read: {error.strerror}")


def _unchanged(path: Path, change: str, error: OSError) -> BadStore:
    kind = REFUSALS.get(error.errno or 0, BadStore)
    return kind(f"store: {path.name} cannot be {change}: {error.strerror}")
