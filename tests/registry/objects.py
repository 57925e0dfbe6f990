"""An object store in memory, over a line that is cut, or with a process that is killed, at any request."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from obstore.exceptions import GenericError

from service.registry.objects import ObjectStore

CUT = GenericError("Generic test error: HTTP error: the line is cut")


class Line:
    """What `ObjectStore` asks of its objects. Any number of services share the objects at its end."""

    def __init__(self, objects: Any) -> None:
        self._objects = objects
        self._left: int | None = None  # requests until the one that fails
        self._late = False
        self._error: BaseException = CUT
        self.dead = False  # every request fails
        self.failed = False
        self.requests = 0

    @contextmanager
    def trouble(self, fails_at: int, error: BaseException, late: bool) -> Iterator["Line"]:
        """The request numbered `fails_at` raises, before it is done or after; 0 is the first."""
        self._left, self._error, self._late, self.failed = fails_at, error, late, False
        try:
            yield self
        finally:
            self._left = None

    def put(self, *args: Any, **how: Any) -> Any:
        return self._ask(self._objects.put, *args, **how)

    def get(self, *args: Any, **how: Any) -> Any:
        return self._ask(self._objects.get, *args, **how)

    def delete(self, *args: Any, **how: Any) -> Any:
        return self._ask(self._objects.delete, *args, **how)

    def list_with_delimiter(self, *args: Any, **how: Any) -> Any:
        return self._ask(self._objects.list_with_delimiter, *args, **how)

    def _ask(self, request: Callable[..., Any], *args: Any, **how: Any) -> Any:
        self.requests += 1
        if self.dead:
            raise CUT
        fails = self._left == 0
        self.failed |= fails
        if self._left is not None:
            self._left -= 1
        if fails and not self._late:
            raise self._error
        answer = request(*args, **how)
        if fails:
            raise self._error
        return answer


def open_objects(line: Line) -> ObjectStore:
    return ObjectStore("memory://adapters", line)  # type: ignore[arg-type]  # it has what is asked for
