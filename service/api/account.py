"""What is known of one request: for its metrics, its line in the log, and its trace."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from secrets import token_hex
from time import monotonic
from typing import NamedTuple

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import Scope

from service.errors import RootstockError
from service.metrics import Metrics
from service.serving.jobs import Course

REQUEST_ID = "X-Request-Id"
SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")

Span = tuple[float, float]  # from, to


class Usage(NamedTuple):
    """What a request asks of one task."""

    task: str
    inputs: int
    tokens: int  # special ones included
    truncated: int  # inputs that were cut


@dataclass(eq=False)
class Account:
    """Filled on the request's way by whoever learns something of it. Times are in seconds, on `monotonic`'s clock."""

    id: str = ""  # of the request; none in the shadow
    started: float = field(default_factory=monotonic)
    deadline: float = inf  # when it is to be answered
    status: int = 0  # of the answer, once it began
    code: str = ""  # of its refusal
    tasks: list[str] = field(default_factory=list)  # those it asks, if they are served
    usage: Sequence[Usage] = ()  # once it is tokenised
    tokenised: Span = (0.0, 0.0)
    course: Course = field(default_factory=Course)  # through the engine
    decoded: Span = (0.0, 0.0)

    @property
    def tokens(self) -> int:
        return sum(one.tokens for one in self.usage)


def open_account(scope: Scope) -> Account:
    """The account of a request that has just arrived. Its id is the caller's if that may stand in a log, else new."""
    given = Headers(scope=scope).get(REQUEST_ID, "")
    account = Account(given if SANE_ID.fullmatch(given) else token_hex(16))
    scope.setdefault("state", {})["account"] = account
    return account


def account_of(request: Request) -> Account:
    account: Account = request.state.account
    return account


@contextmanager
def counted(request: Request, metrics: Metrics) -> Iterator[list[str]]:
    """Counts a predict request by its outcome, under each task that is put into the list.

    Only tasks that are served: a label of its own for every name that anyone makes up would fill the metrics.
    """
    account, outcome = account_of(request), "failed"
    try:
        yield account.tasks
        outcome = "answered"
    except RootstockError as error:
        outcome = error.code
        raise
    except asyncio.CancelledError:
        outcome = "cancelled"
        raise
    finally:
        _count(account, outcome, metrics)


def _count(account: Account, outcome: str, metrics: Metrics) -> None:
    seconds, course = monotonic() - account.started, account.course
    usage = {one.task: one for one in account.usage} if outcome == "answered" else {}
    if not account.tasks:
        metrics.requests.labels("", outcome).inc()
    for task in account.tasks:
        with metrics.label(task) as label:
            metrics.requests.labels(label, outcome).inc()
            if task in usage:
                metrics.request_seconds.labels(label).observe(seconds)
                metrics.request_queue_seconds.labels(label).observe(course.queue_seconds)
                metrics.request_engine_seconds.labels(label).observe(course.engine_seconds)
                metrics.inputs.labels(label).inc(usage[task].inputs)
                metrics.input_tokens.labels(label).inc(usage[task].tokens)
                metrics.truncated.labels(label).inc(usage[task].truncated)
