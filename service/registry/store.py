"""The store: a folder whose files are the truth about what is served.

    <task>-<version>.safetensors   one adapter version, never changed once it is there
    <task>.json                    {"active": version or null, "last": highest version ever given}

A task without its .json serves its highest version: copying a file into the folder is a way to install it.
Every write goes to a temporary file first, reaches the disk, and takes its name in one step, so a kill at any moment
leaves the old state or the new one; a write or removal that fails leaves the old one.
"""

import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from service.adapters.manifest import TASK_NAME
from service.errors import BadStore

ADAPTER_FILE = re.compile(r"(?P<task>[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?)-(?P<version>[1-9][0-9]{0,8})\.safetensors")
TEMPORARY = ".writing-"


class State(BaseModel):
    """What is remembered of a task beside its files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    active: int | None
    last: int


class FolderStore:
    def __init__(self, folder: Path) -> None:
        """Opens the folder, making it if need be, and clears what an interrupted write left behind."""
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(f"{TEMPORARY}*"):
                with suppress(OSError):  # a read-only store is still good for serving
                    leftover.unlink()
        except OSError as error:
            raise BadStore(f"store {folder}: {error.strerror}") from error

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

    def states(self) -> dict[str, State]:
        """Every task's remembered state, of tasks without a file too."""
        states = {}
        for path in self._folder.glob("*.json"):
            if not re.fullmatch(TASK_NAME, path.stem):
                continue
            try:
                states[path.stem] = State.model_validate_json(path.read_bytes())
            except (OSError, ValidationError) as error:
                raise BadStore(f"store: {path.name} is not a task's state: {error}") from error
        return states

    def read(self, task: str, version: int) -> bytes:
        try:
            return self._path(task, version).read_bytes()
        except OSError as error:
            raise BadStore(f"store: {self._path(task, version).name} cannot be read: {error.strerror}") from error

    def write(self, task: str, version: int, data: bytes) -> None:
        self._write(self._path(task, version), data)

    def write_state(self, task: str, state: State) -> None:
        self._write(self._folder / f"{task}.json", state.model_dump_json().encode())

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

    def _path(self, task: str, version: int) -> Path:
        return self._folder / f"{task}-{version}.safetensors"

    def _write(self, path: Path, data: bytes) -> None:
        try:
            before = path.read_bytes() if path.exists() else None
            self._put(path, data)
            try:
                self._settle()
            except OSError:
                with suppress(OSError):
                    path.unlink() if before is None else self._put(path, before)
                raise
        except OSError as error:
            raise BadStore(f"store: {path.name} cannot be written: {error.strerror}") from error

    def _put(self, path: Path, data: bytes) -> None:
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=TEMPORARY, delete=False) as file:
            temporary = Path(file.name)
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                temporary.chmod(0o644)
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
