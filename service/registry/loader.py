"""Versions of the store, judged and taken into memory."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from service.adapters.file import Header, Stored, digest
from service.engine.bank import Resident, fitting_header, load_resident, make_resident
from service.engine.base_model import BaseModel
from service.errors import BadAdapter, BadStore, UnknownVersion
from service.registry.store import FolderStore
from service.registry.versions import Version

THREADS = 2  # files read into memory at once

log = logging.getLogger(__name__)


class Loader:
    def __init__(self, base: BaseModel, store: FolderStore) -> None:
        self._base, self._store = base, store
        self._threads = ThreadPoolExecutor(THREADS, "loader")
        self._begun: dict[tuple[str, int], Future[Resident]] = {}
        self._lock = Lock()  # guards `_begun`
        self._tables: dict[tuple[tuple[str, Stored], ...], dict[str, Stored]] = {}

    def examine(self, name: str, number: int) -> Version:
        """Judges a file by its header; one that is refused is a version too."""
        content, size = "", 0
        try:
            content, size, head, tag = self._store.look(name, number)
            header = self._shared(fitting_header(self._base, head, size))
            return Version(number, content, size, header, header.parameters, tag)
        except UnknownVersion:
            problem = "its file is missing"
        except (BadAdapter, BadStore) as error:
            problem = error.detail
        return refused(name, Version(number, content, size, None), problem)

    def judge(self, data: bytes, number: int) -> tuple[Version, Resident]:
        """Judges a whole file from outside.

        Raises:
            BadAdapter
        """
        header, content = self._shared(fitting_header(self._base, data, len(data))), digest(data)
        resident = make_resident(self._base, header, data, number, content)
        return Version(number, content, len(data), header, header.parameters), resident

    def load(self, name: str, version: Version) -> Resident:
        """A file that has not changed since it was judged is not judged again, but for its numbers.

        Raises:
            UnknownVersion, BadStore, BadAdapter
        """
        with self._store.reading(name, version.number) as (data, tag):
            if version.header is not None and version.tag == tag:
                return make_resident(self._base, version.header, data, version.number, version.digest)
            return load_resident(self._base, data, version.number)

    def begin(self, name: str, number: int, load: Callable[[], Resident]) -> "Future[Resident]":
        """Runs `load` beside the caller; once, however many ask for this version meanwhile."""
        key = name, number

        def run() -> Resident:
            try:
                return load()
            finally:
                with self._lock:
                    del self._begun[key]

        with self._lock:
            if key not in self._begun:
                self._begun[key] = self._threads.submit(run)
            return self._begun[key]

    def _shared(self, header: Header) -> Header:
        """Thousands of adapters have one table of tensors; it is kept once."""
        table = self._tables.setdefault(tuple(header.tensors.items()), header.tensors)
        return header._replace(tensors=table)


def refused(name: str, version: Version, problem: str) -> Version:
    """The version as one that is not served, which is logged."""
    log.error("task %s version %d is not served: %s", name, version.number, problem)
    return version.refused(problem)
