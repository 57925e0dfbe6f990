"""Versions of the store, judged and taken into memory."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import Lock
from typing import NamedTuple

from service.adapters.file import digest
from service.engine.arranging import Arranger
from service.engine.bank import Resident
from service.engine.base_model import BaseModel
from service.errors import BadAdapter, BadStore, StoreUnreachable, UnknownVersion
from service.registry.store import Store
from service.registry.versions import Version

THREADS = 2  # files read into memory at once

log = logging.getLogger(__name__)


class Whole(NamedTuple):
    """A whole file that was judged."""

    version: Version
    resident: Resident
    sealed: bool


class Loader:
    def __init__(self, base: BaseModel, store: Store) -> None:
        self._store, self._arranger = store, Arranger(base)
        self._threads = ThreadPoolExecutor(THREADS, "loader")
        self._begun: dict[tuple[str, int], Future[Resident]] = {}
        self._lock = Lock()  # guards `_begun`

    def examine(self, name: str, number: int, known: str | None = None) -> Version:
        """Judges a file by its header; one that is refused is a version too.

        Args:
            known: its digest, as the state has it.

        Raises:
            StoreUnreachable
        """
        content, size, tag = known or "", 0, ""
        try:
            content, size, head, tag = self._store.look(name, number, known)
            header = self._arranger.header(head, size)
            return Version(number, content, size, header, header.parameters, tag, judged=content == known)
        except StoreUnreachable:
            raise
        except UnknownVersion:
            problem = "its file is missing"
        except (BadAdapter, BadStore) as error:
            problem = error.detail
        return refused(name, Version(number, content, size, None, tag=tag), problem)

    def judge(self, data: bytes | memoryview, number: int = 0, tag: str = "") -> Whole:
        """Judges a whole file.

        Raises:
            BadAdapter
        """
        header, resident, sealed = self._arranger.judge(data, number)
        version = Version(number, resident.digest, len(data), header, header.parameters, tag, judged=True)
        return Whole(version, resident, sealed)

    def judge_stored(self, name: str, number: int) -> Whole:
        """The same for a file of the store.

        Raises:
            UnknownVersion, BadStore, BadAdapter
        """
        with self._store.reading(name, number) as (data, tag):
            return self.judge(data, number, tag)

    def load(self, name: str, version: Version) -> tuple[Version, Resident]:
        """A file that has not changed since it was judged is not judged again, but for its numbers.

        Returns:
            the version, as judged from now on; and in memory

        Raises:
            UnknownVersion, BadStore, BadAdapter
        """
        with self._store.reading(name, version.number) as (data, tag):
            if version.header is not None and version.judged and version.tag == tag:
                if not self._store.hashes and digest(data) != version.digest:
                    raise BadAdapter(f"it is not the file that was uploaded: its digest is not {version.digest}")
                return version, self._arranger.arrange(version.header, data, version.number, version.digest)
            whole = self.judge(data, version.number)
            same = (version.digest, version.tag) == (whole.version.digest, tag)
            return replace(version, judged=True) if same else version, whole.resident

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


def refused(name: str, version: Version, problem: str) -> Version:
    """The version as one that is not served, which is logged."""
    log.error("task %s version %d is not served: %s", name, version.number, problem)
    return version.refused(problem)
