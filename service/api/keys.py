"""API keys: what one may do, and the file that holds their hashes.

    {"keys": [{"name": "ci", "sha256": "…", "scopes": ["upload"], "tasks": ["spam"], "made": "2026-01-31"}, …]}

A secret is 256 random bits, so its plain SHA-256 is as hard to turn back as any slower hash. It is shown once, when it
is made, and is nowhere else: not in the file, in a log, a metric, an error or a command line.
"""

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator

from service.adapters.manifest import TaskName
from service.errors import BadKeys
from service.strict import Strict

Scope = Literal["predict", "upload", "metrics", "admin"]

SECRET_PREFIX = "rootstock_"  # by which scanners find one that leaked
SECRET_BYTES = 32
NAME = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"  # it stands in logs
DEFAULT_MODE = 0o600


class Key(Strict):
    """One caller's rights. `name` is who it is in logs; several keys at once are how one is replaced by another."""

    name: Annotated[str, Field(pattern=NAME)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[list[Scope], Field(min_length=1)]
    tasks: Annotated[list[TaskName] | None, Field(min_length=1, description="none: all tasks")] = None
    made: date

    def has(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def reaches(self, task: str) -> bool:
        return self.tasks is None or task in self.tasks


class KeyTable(Strict):
    """All keys of a service, immutable: a change is another table."""

    keys: list[Key]

    @field_validator("keys")
    @classmethod
    def _each_name_once(cls, keys: list[Key]) -> list[Key]:
        names = [key.name for key in keys]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two keys are named {name}")
        return keys

    def find(self, secret: str) -> Key | None:
        """The key of a secret. Takes the same time whichever it is, and if it is none."""
        given = _hashed(secret)
        found = None
        for key in self.keys:
            if hmac.compare_digest(key.sha256, given):
                found = key
        return found


class KeysFile:
    """The file, as `rootstock keys` changes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def state(self) -> tuple[int, ...] | None:
        """Another after each change; None where there is no file. Follows links: a mounted secret is swapped by one."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def read(self) -> KeyTable:
        """
        Raises:
            BadKeys: there is no such file, or what it holds is no table of keys.
        """
        try:
            return KeyTable.model_validate_json(self.path.read_bytes())
        except OSError as error:
            raise BadKeys(f"{self.path}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise BadKeys(f"{self.path}: {': '.join(filter(None, (place, first['msg'])))}") from error

    def add(self, name: str, scopes: Sequence[Scope], tasks: Sequence[str] | None) -> str:
        """Makes a key, and the file where there is none; returns the secret, which nobody can see again.

        Raises:
            BadKeys: the name is taken, or is none.
        """
        if not re.fullmatch(NAME, name):
            raise BadKeys(f"{name!r} is no name for a key: letters, digits, '.', '_', '@' and '-', at most 64")
        secret = SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        key = Key(
            name=name,
            sha256=_hashed(secret),
            scopes=list(scopes),
            tasks=list(tasks) if tasks else None,
            made=datetime.now(UTC).date(),
        )
        with self._changing() as table:
            if any(other.name == name for other in table.keys):
                raise BadKeys(f"there is a key {name}; remove it first, or choose another name")
            self._write(KeyTable(keys=[*table.keys, key]))
        return secret

    def remove(self, name: str) -> None:
        """
        Raises:
            BadKeys: there is no such key.
        """
        with self._changing() as table:
            left = [key for key in table.keys if key.name != name]
            if len(left) == len(table.keys):
                raise BadKeys(f"there is no key {name}")
            self._write(KeyTable(keys=left))

    @contextmanager
    def _changing(self) -> Iterator[KeyTable]:
        """The table as it is, with the folder locked: of two changes at once, neither undoes the other."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield self.read() if self.path.exists() else KeyTable(keys=[])
        finally:
            os.close(folder)

    def _write(self, table: KeyTable) -> None:
        """In one step: whoever reads finds the old table or the new one."""
        mode = self.path.stat().st_mode if self.path.exists() else DEFAULT_MODE
        with tempfile.NamedTemporaryFile("w", dir=self.path.parent, prefix=".keys-", delete=False) as file:
            try:
                os.fchmod(file.fileno(), mode & 0o777)
                file.write(table.model_dump_json(indent=2, exclude_none=True) + "\n")
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, self.path)
            except BaseException:
                os.unlink(file.name)
                raise


class Keyring:
    """The keys that a service knows: those of its file, which it follows."""

    def __init__(self, file: KeysFile) -> None:
        """
        Raises:
            BadKeys
        """
        self._file = file
        self._state = file.state()
        self.table = file.read()

    def refresh(self) -> bool:
        """Takes over a changed file; whether there was one. What cannot be read leaves the keys as they are.

        Raises:
            BadKeys: once for each change.
        """
        state = self._file.state()
        if state == self._state:
            return False
        self._state = state
        self.table = self._file.read()
        return True


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
