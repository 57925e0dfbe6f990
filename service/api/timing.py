"""How long a request may take: what it asks for, within what the settings allow."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import isfinite
from time import monotonic
from typing import Any

from fastapi import Request
from pydantic import BaseModel

from service.api.account import Account, account_of
from service.api.body import body_schema
from service.errors import BadInput, DeadlineExceeded
from service.settings import Settings

TIMEOUT = "X-Request-Timeout"
TIMEOUT_PARAMETER: dict[str, Any] = {
    "name": TIMEOUT,
    "in": "header",
    "required": False,
    "description": "Seconds, from the request's arrival, in which it is to be answered. After them it gets 504, and "
    "what has not run of it never does.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}


def timed_body(model: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI of a request with such a body, and with a timeout."""
    return body_schema(model) | {"parameters": [TIMEOUT_PARAMETER]}


class Time:
    """One request's time, from its arrival on.

    The shortest timeout that it names counts; one that names none has that of the settings. The account has its end.
    """

    def __init__(self, account: Account, named: float | None, settings: Settings) -> None:
        self._account, self._named = account, named
        self._default, self._most = settings.timeout_seconds, settings.max_timeout_seconds
        self.limit = asyncio.timeout_at(self._end())

    @property
    def seconds(self) -> float:
        return self._default if self._named is None else min(self._named, self._most)

    def within(self, seconds: float | None) -> None:
        """The request's body names a timeout too, or None."""
        if seconds is not None and (self._named is None or seconds < self._named):
            self._named = seconds
            self.limit.reschedule(self._end())

    def _end(self) -> float:
        """By the event loop's clock."""
        self._account.deadline = self._account.started + self.seconds
        return asyncio.get_running_loop().time() + self._account.deadline - monotonic()


@asynccontextmanager
async def timed(request: Request, settings: Settings) -> AsyncIterator[Time]:
    """Gives a block the request's time, and ends it when that is over.

    Raises:
        BadInput: the header is no time.
        DeadlineExceeded
    """
    time = Time(account_of(request), _named(request), settings)
    try:
        async with time.limit:
            yield time
    except TimeoutError as error:
        if not time.limit.expired():
            raise
        raise DeadlineExceeded(f"the request was not answered within {time.seconds:g} s") from error


def _named(request: Request) -> float | None:
    value = request.headers.get(TIMEOUT)
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not (isfinite(seconds) and seconds > 0):
        raise BadInput(f"{TIMEOUT}: {value!r} is not a number of seconds above 0")
    return seconds
