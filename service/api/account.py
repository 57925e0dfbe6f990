"""What is known of one request: for its metrics, its line in the log, and its trace."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

from fastapi import Request

from service.api.services import Services
from service.errors import RootstockError
from service.metrics import Metrics
from service.serving.jobs import Course


class Usage(NamedTuple):
    """What a request asks of one task."""

    task: str
    inputs: int
    tokens: int  # special ones included
    truncated: int  # inputs that were cut


@dataclass(eq=False)
class Account:
    """Filled on the request's way by whoever learns something of it. Times are in seconds, on `monotonic`'s clock."""

    started: float = field(default_factory=monotonic)
    code: str = ""  # of its refusal
    tasks: list[str] = field(default_factory=list)  # those it asks, if they are served
    usage: Sequence[Usage] = ()  # once it is tokenised
    course: Course = field(default_factory=Course)  # through the engine


def account_of(request: Request) -> Account:
    account: Account = request.state.account
    return account


@contextmanager
def counted(request: Request, services: Services) -> Iterator[list[str]]:
    """Counts a predict request by its outcome, under each task that is put into the list.

    Only tasks that are served: a label of its own for every name that anyone makes up would fill the metrics.
    """
    account, outcome = account_of(request), "failed"
    try:
        yield account.tasks
        outcome = "answered"
        _count_answered(account, services.metrics)
    except RootstockError as error:
        outcome = error.code
        raise
    except asyncio.CancelledError:
        outcome = "cancelled"
        raise
    finally:
        if not account.tasks:
            services.metrics.requests.labels("", outcome).inc()
        for task in account.tasks:
            with services.metrics.label(task) as label:
                services.metrics.requests.labels(label, outcome).inc()


def _count_answered(account: Account, metrics: Metrics) -> None:
    seconds, course = monotonic() - account.started, account.course
    for task, inputs, tokens, truncated in account.usage:
        with metrics.label(task) as label:
            metrics.request_seconds.labels(label).observe(seconds)
            metrics.request_queue_seconds.labels(label).observe(course.queue_seconds)
            metrics.request_engine_seconds.labels(label).observe(course.engine_seconds)
            metrics.inputs.labels(label).inc(inputs)
            metrics.input_tokens.labels(label).inc(tokens)
            metrics.truncated.labels(label).inc(truncated)
