"""An object store, of S3's, Google's or Azure's kind, as the store, for any number of services.

It must honour conditional writes (If-None-Match and If-Match, or what its kind has for them), and is asked so at the
start: one that ignores them would lose changes silently. Credentials and the endpoint come from the environment, by the
names that `obstore` reads.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from math import nan
from typing import TYPE_CHECKING, Any, NoReturn

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)
from obstore.store import from_url

from service.adapters.file import HEAD_BYTES
from service.adapters.file import digest as digest_of
from service.errors import BadStore, StoreFull, StoreReadOnly, StoreUnreachable, UnknownVersion
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

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutResult, UpdateVersion
    from obstore.store import ObjectStore as Objects

log = logging.getLogger(__name__)

PROBE = ".conditional-writes"
FIRST_BYTES = 64 * 1024  # of a file: most headers are in there
CLIENT: Any = {"timeout": timedelta(seconds=30), "connect_timeout": timedelta(seconds=5), "allow_http": True}
RETRY: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=15)}
CAUSE = re.compile(
    r"non-2xx status code: (\d+ [A-Za-z ]+)|(HTTP error: [a-z ]+)"
)  # messages may quote signed addresses
FULL = re.compile(r"non-2xx status code: 507|<Code>\w*(QuotaExceeded|StorageFull)</Code>")  # as MinIO and Ceph say it


def connect(url: str) -> "ObjectStore":
    """The store that a URL names: s3://bucket/prefix, gs://…, az://….

    Raises:
        BadStore: it names none that is known, or this one cannot be used.
    """
    try:
        return ObjectStore(url, from_url(url, client_options=CLIENT, retry_config=RETRY))
    except (BaseError, ValueError) as error:
        raise BadStore(f"store {url}: {str(error).splitlines()[0]}") from error


class ObjectStore:
    hashes = False

    def __init__(self, url: str, objects: "Objects") -> None:
        """Raises:
        BadStore: it does not honour conditional writes, or cannot be read.
        """
        self._url, self._objects = url, objects
        self._states: dict[str, UpdateVersion] = {}  # by name: what was last seen; some compare by more than the tag
        self._probe()

    def close(self) -> None:
        pass

    def free_bytes(self) -> float:
        return nan

    def list(self) -> dict[str, Found]:
        try:
            objects = self._objects.list_with_delimiter()["objects"]
        except BaseError as error:
            self._fail(error, "its files cannot be listed")
        return found_in((one["path"], _tag(one["e_tag"])) for one in objects)

    def state(self, task: str, known: Kept | None = None) -> Kept | None:
        found = self._read(state_file(task))
        if found is None:
            return None
        if known is not None and known.tag == found.tag:
            return known
        return Kept(parse_state(task, bytes(found.data)), found.tag)

    def write_state(self, task: str, state: State, before: str | None) -> str:
        name, data = state_file(task), state.model_dump_json().encode()
        known = self._states.get(name)
        if before is not None and (known is None or _tag(known["e_tag"]) != before):
            raise Changed
        try:
            put = self._objects.put(name, data, mode="create" if before is None or known is None else known)
        except BaseError as error:
            there = self._read(name)
            if there is not None and there.data == data:  # the answer was lost, and what came of it found by a retry
                return there.tag
            if isinstance(error, PreconditionError | AlreadyExistsError):
                raise Changed from error
            self._fail(error, f"{name} cannot be written", writing=True)
        self._states[name] = _version(put)
        return _tag(put["e_tag"])

    def archive(self, task: str, first: int, log: Log) -> None:
        with suppress(FileExistsError):
            self._create(log_file(task, first), write_lines(log))

    def archived(self, task: str, first: int) -> Log:
        found = self._read(log_file(task, first))
        if found is None:
            raise BadStore(f"store {self._url}: {log_file(task, first)} is missing")
        return parse_lines(task, first, bytes(found.data))

    def write(self, task: str, version: int, data: bytes) -> str:
        name = adapter_file(task, version)
        try:
            self._objects.get(name, options={"head": True})
        except FileNotFoundError:
            return self._create(name, data)
        except BaseError as error:
            self._fail(error, f"{name} cannot be written")
        raise FileExistsError(name)  # also where it has the same bytes

    def remove(self, task: str, version: int) -> None:
        name = adapter_file(task, version)
        try:
            self._objects.delete(name)
        except FileNotFoundError:
            return
        except BaseError as error:
            self._fail(error, f"{name} cannot be removed", writing=True)

    def read(self, task: str, version: int) -> bytes:
        with self.reading(task, version) as content:
            return bytes(content.data)

    @contextmanager
    def reading(self, task: str, version: int) -> Iterator[Content]:
        data, facts = self._get(task, version)
        yield Content(data, _tag(facts["e_tag"]))

    def look(self, task: str, version: int, digest: str | None = None) -> Look:
        data, facts = self._get(task, version, None if digest is None else FIRST_BYTES)
        length = min(8 + int.from_bytes(data[:8], "little"), HEAD_BYTES)  # of the header, and its length before it
        if len(data) < min(length, facts["size"]):
            data, facts = self._get(task, version, length)
        return Look(digest or digest_of(data), facts["size"], bytes(data[:length]), _tag(facts["e_tag"]))

    def _get(self, task: str, version: int, first: int | None = None) -> "tuple[memoryview, ObjectMeta]":
        """A file, or its `first` bytes."""
        name = adapter_file(task, version)
        try:
            found = self._objects.get(name, options={"range": (0, first)} if first else None)
            return memoryview(found.bytes()), found.meta
        except FileNotFoundError as error:
            raise UnknownVersion(f"task {task} has no version {version}: its file is missing") from error
        except BaseError as error:
            if first:  # of an empty file there is no part
                return self._get(task, version)
            self._fail(error, f"{name} cannot be read")

    def _read(self, name: str) -> Content | None:
        """A small file, and what its replacement is to be compared with."""
        try:
            found = self._objects.get(name)
            data = memoryview(found.bytes())
        except FileNotFoundError:
            return None
        except BaseError as error:
            self._fail(error, f"{name} cannot be read")
        self._states[name] = _version(found.meta)
        return Content(data, _tag(found.meta["e_tag"]))

    def _create(self, name: str, data: bytes) -> str:
        """Raises:
        FileExistsError, BadStore
        """
        try:
            return _tag(self._objects.put(name, data, mode="create")["e_tag"])
        except BaseError as error:
            there = self._read(name)
            if there is not None and there.data == data:  # as above
                return there.tag
            if isinstance(error, AlreadyExistsError):
                raise FileExistsError(name) from error
            self._fail(error, f"{name} cannot be written", writing=True)

    def _probe(self) -> None:
        """Two writes, the second of which must be refused. Whoever may only read needs no such promise, and where there
        is no room for them now, it may have been asked before.
        """
        before = self._read(PROBE) is not None
        try:
            for _ in range(2):
                self._objects.put(PROBE, b"", mode="create")
        except AlreadyExistsError:
            return
        except BaseError as error:
            problem = _problem(error, writing=True)
            if problem is StoreReadOnly or (problem is StoreFull and before):
                log.warning("store %s: %s", self._url, problem.title)
                return
            self._fail(error, "it cannot be written", writing=True)
        with suppress(BaseError):
            self._objects.delete(PROBE)  # or a later start would take it for a promise
        raise BadStore(f"store {self._url} does not honour conditional writes; services on it would lose changes")

    def _fail(self, error: Exception, what: str, writing: bool = False) -> NoReturn:
        found = CAUSE.search(str(error))
        cause = (found[1] or found[2]) if found else type(error).__name__
        raise _problem(error, writing)(f"store {self._url}: {what}: {cause}") from error


def _problem(error: Exception, writing: bool) -> type[BadStore]:
    if writing and FULL.search(str(error)):  # before the rights: Ceph answers 403
        return StoreFull
    if writing and isinstance(error, PermissionDeniedError):
        return StoreReadOnly
    if isinstance(error, PermissionDeniedError | UnauthenticatedError | UnknownConfigurationKeyError | OSError):
        return BadStore
    return StoreUnreachable


def _tag(e_tag: str | None) -> str:
    """Some quote it in answers and not in listings."""
    return (e_tag or "").strip('"')


def _version(known: "PutResult | ObjectMeta") -> "UpdateVersion":
    """What a write is compared by: without what this store does not have, which must not be named."""
    return {name: known[name] for name in ("e_tag", "version") if known[name] is not None}  # type: ignore[return-value]
