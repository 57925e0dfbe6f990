"""When a call is tried again, and after how long. Pure, but for the dice."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2

BUSY = (429, 503)  # the service has not done the work
UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)  # the service has not seen the request
CUT = (httpx2.NetworkError, httpx2.RemoteProtocolError)  # nobody knows whether it has


@dataclass(frozen=True)
class Retry:
    """Exponential back-off with full jitter (Brooker 2015, "Exponential Backoff And Jitter"). Times in seconds."""

    times: int = 4  # tries after the first
    first: float = 0.1  # the first pause at most; each further one may be twice as long
    most: float = 10.0  # a pause at most; a service that asks for a longer one is not waited for

    def pause(self, failures: int, asked: float = 0.0, dice: Callable[[], float] = random.random) -> float | None:
        """How long to wait before the next try; None: there is none.

        Args:
            failures: tries that have failed, at least one.
            asked: what the service asks to wait; the jitter comes on top, or all who were refused would come at once.
        """
        if failures > self.times or asked > self.most:
            return None
        return asked + dice() * min(self.most, self.first * 2.0 ** (failures - 1))


NEVER = Retry(times=0)


def retry_after(response: httpx2.Response) -> float:
    """What `Retry-After` asks for, in seconds, whether it names them or a date; 0 where it asks for nothing."""
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):  # no date, or one without its zone
        return 0.0
