"""Which version answers a task in a request, and while a release is under way, which one is compared with it."""

import logging
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Annotated, NamedTuple

from fastapi import Header, Request

from service.api.account import Account, account_of
from service.api.answering import Answered, Sent, answer, find
from service.api.schemas import Parameters
from service.api.services import Services
from service.api.trials import Trial
from service.engine.bank import Resident
from service.errors import BadAdapter, BadStore, EngineFault, Overloaded, RootstockError, UnknownVersion
from service.registry.release import Role, key_of

log = logging.getLogger(__name__)

STICKY_KEY, VERSION, DIGEST = "Rootstock-Sticky-Key", "Rootstock-Version", "Rootstock-Digest"
StickyKey = Annotated[
    str | None,
    Header(
        alias=STICKY_KEY,
        min_length=1,
        max_length=256,
        description="a user or a session: while a candidate answers a share of the requests, those with the same key "
        "are answered by the same version; when left out, those with the same inputs are",
    ),
]
SERVED = {  # OpenAPI of what `headers` makes
    VERSION: {"description": "The version that answered.", "schema": {"type": "integer"}},
    DIGEST: {"description": "The SHA-256 of its file.", "schema": {"type": "string"}},
}
OTHER: Mapping[Role, Role] = {"active": "candidate", "candidate": "active"}


class Route(NamedTuple):
    """What answers a task in one request."""

    resident: Resident
    trial: Trial | None = None  # None: there is no release under way, or the caller named a version
    role: Role = "active"
    shadowed: bool = False  # whether the other version is to answer too

    def took(self, seconds: float) -> None:
        if self.trial is not None:
            self.trial.took(self.role, seconds)

    def fail(self) -> None:
        if self.trial is not None:
            self.trial.fail(self.role)


async def route(
    services: Services, task: str, inputs: Sequence[Sent], sticky_key: str | None, version: int | None = None
) -> Route:
    """The version asked for; else the active one, or where a share of the requests is the candidate's, that.

    A candidate that cannot be read is no reason to refuse anyone: the active version answers.

    Raises:
        UnknownTask, UnknownVersion, BadStore, BadAdapter
    """
    trial = services.trials.of(task) if version is None else None
    if trial is None:
        return Route(await find(services, task, version))
    candidate = trial.candidate
    falls = candidate.takes(task, sticky_key or key_of(map(_texts, inputs)))
    if falls and candidate.mode == "share":
        try:
            return Route(await find(services, task, candidate.version), trial, "candidate", shadowed=True)
        except (UnknownVersion, BadStore, BadAdapter):
            trial.fail("candidate")
            falls = False
    resident = await find(services, task)
    if resident.version != trial.seen["active"].version:  # activated this moment
        return Route(resident)
    return Route(resident, trial, "active", shadowed=falls)


async def answer_routed(
    request: Request, services: Services, routes: Mapping[str, Route], inputs: Sequence[Sent], parameters: Parameters
) -> list[Answered]:
    """As `answer`; what is compared begins when these answers are there, and nobody waits for it."""
    residents, account = {task: one.resident for task, one in routes.items()}, account_of(request)
    started = perf_counter()
    try:
        answers = await answer(request, services, residents, inputs, parameters, account)
    except EngineFault:
        for one in routes.values():
            one.fail()
        raise
    for one, answered in zip(routes.values(), answers, strict=True):
        one.took(perf_counter() - started - account.course.queue_seconds)
        if one.trial is not None and one.shadowed:
            if services.shadows.full:
                one.trial.count("dropped", len(inputs))
            else:
                services.shadows.begin(_compare(services, one.trial, OTHER[one.role], answered, inputs, parameters))
    return answers


def headers(answered: Answered) -> dict[str, str]:
    """What an answer of one task says of it."""
    resident = answered.asked.resident
    return {VERSION: str(resident.version), DIGEST: resident.digest}


async def _compare(
    services: Services, trial: Trial, role: Role, answered: Answered, inputs: Sequence[Sent], parameters: Parameters
) -> None:
    """Has the version of this role answer too, and counts where it agrees."""
    account = Account()
    try:
        resident = await find(services, trial.task, trial.seen[role].version)
        started = perf_counter()
        [other] = await answer(None, services, {trial.task: resident}, inputs, parameters, account)
    except Overloaded:
        trial.count("dropped", len(inputs))
    except Exception as error:
        unforeseen = None if isinstance(error, RootstockError) else error
        log.warning(
            "task %s version %d failed in the shadow: %s",
            trial.task,
            trial.seen[role].version,
            error,
            exc_info=unforeseen,
        )
        trial.fail(role)
        trial.count("failed", len(inputs))
    else:
        trial.took(role, perf_counter() - started - account.course.queue_seconds)
        active = resident if role == "active" else answered.asked.resident
        for one, its in zip(answered.predictions, other.predictions, strict=True):
            same = active.kind.same(active.manifest, one.answer, its.answer)
            if same is not None:
                trial.count("agreed" if same else "differed")


def _texts(sent: Sent) -> list[str]:
    """The same, in whichever form it was sent."""
    return [sent] if isinstance(sent, str) else list(sent.model_dump(exclude_none=True).values())
