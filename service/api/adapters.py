"""/adapters and /tasks: upload, versions, what is served."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from time import monotonic, perf_counter
from typing import ParamSpec, TypeVar

from fastapi import APIRouter, Request, Response

from service.api.access import needs, reaches
from service.api.body import body_schema, read_file, read_json
from service.api.problems import documented
from service.api.schemas import (
    ActivateRequest,
    AdapterAnswer,
    CandidateAnswer,
    Latency,
    LogAnswer,
    SeenAnswer,
    TaskAnswer,
    VersionAnswer,
)
from service.api.services import Services, ServicesHere
from service.api.trials import Trial
from service.engine.bank import BARE_TASK
from service.errors import Overloaded, RootstockError, UnknownTask
from service.registry.versions import Task, Version

P = ParamSpec("P")
T = TypeVar("T")

LOOK_SECONDS = 0.005  # between looks at whether memory is free

log = logging.getLogger(__name__)
router = APIRouter(tags=["adapters"])

FILE_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get(
    "/tasks", summary="What is served and what is to be, of the tasks that the key reaches", dependencies=[needs()]
)
async def tasks(request: Request, services: ServicesHere) -> list[TaskAnswer]:
    """Of each its kind, labels, active version, and its figures on validation and test."""
    found = [_bare(services), *services.registry.tasks()]
    return [
        _task_answer(services, task)
        for task in sorted(found, key=attrgetter("name"))
        if (task.active is not None or task.behind is not None) and reaches(request, task.name)
    ]


@router.get("/tasks/{task}", responses=documented(404, 422), summary="One task", dependencies=[needs()])
async def task(task: str, services: ServicesHere) -> TaskAnswer:
    found = _bare(services) if task == BARE_TASK else services.registry.task(task)
    if found.active is None and found.behind is None:
        raise UnknownTask(f"task {task!r} is not served")
    return _task_answer(services, found)


@router.put(
    "/adapters/{task}",
    status_code=201,
    responses={200: {"model": VersionAnswer}, **documented(400, 409, 413, 415, 422, 500, 503, 507)},
    openapi_extra=FILE_BODY,
    dependencies=[needs("upload")],
    summary="Upload an adapter file and serve it",
)
async def upload(
    task: str, request: Request, response: Response, services: ServicesHere, activate: bool = True
) -> VersionAnswer:
    """The file's bytes, as `curl -T FILE` sends them: checked, proved in the engine, stored, served from then on.

    201 with the new version and what was seen in the proof; the same bytes again: 200 with the version that they are.
    `activate=false` only stores. A refusal (422) has the `step` that the file came to, and where there is one the
    `tensor` or `example`, what was `expected` and what was `got`.
    """
    outcome, started = "failed", perf_counter()
    try:
        if services.uploads.locked():
            raise Overloaded(f"{services.settings.uploads} uploads are under way, the most at once")
        async with services.uploads:
            data = await read_file(request, services.settings)
            version, new = await change(services, services.registry.upload, task, data, activate, caller(request))
        outcome = "accepted" if new else "known"
        if new:
            services.metrics.upload_seconds.observe(perf_counter() - started)
    except RootstockError as error:
        outcome = error.code
        raise
    finally:
        services.metrics.uploads.labels(outcome).inc()
    if not new:
        response.status_code = 200
    return version_answer(services.registry.task(task), version)


@router.get(
    "/adapters/{task}",
    responses=documented(404, 422),
    summary="A task's versions and their state, and what is seen of its candidate",
    dependencies=[needs("upload")],
)
async def versions(task: str, services: ServicesHere) -> AdapterAnswer:
    return adapter_answer(services, services.registry.task(task))


@router.get(
    "/adapters/{task}/log",
    responses=documented(404, 422, 500),
    summary="Who changed what of a task, and when",
    dependencies=[needs("upload")],
)
async def task_log(task: str, services: ServicesHere) -> LogAnswer:
    """Each change with its time and caller, and which version was active before it and after."""
    return LogAnswer(task=task, entries=list(await asyncio.to_thread(services.registry.log, task)))


@router.get(
    "/adapters/{task}/versions/{version}",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}, **documented(404, 422, 500)},
    summary="A version's file",
    dependencies=[needs("upload")],
)
async def file(task: str, version: int, services: ServicesHere) -> Response:
    data = await asyncio.to_thread(services.registry.file, task, version)
    headers = {"Content-Disposition": f'attachment; filename="{task}-{version}.safetensors"'}
    return Response(data, media_type="application/octet-stream", headers=headers)


@router.post(
    "/adapters/{task}/activate",
    responses=documented(400, 404, 413, 415, 422, 500, 503, 507),
    openapi_extra=body_schema(ActivateRequest),
    dependencies=[needs("upload")],
    summary="Serve another version, forward or back",
)
async def activate(task: str, request: Request, services: ServicesHere) -> VersionAnswer:
    """From the next request on. A version that was never proved is proved first."""
    wanted = await read_json(request, ActivateRequest, services.settings)
    version = await change(services, services.registry.activate, task, wanted.version, caller(request))
    return version_answer(services.registry.task(task), version)


@router.delete(
    "/adapters/{task}",
    status_code=204,
    responses=documented(404, 422, 500, 507),
    summary="Retire a task and remove its files",
    dependencies=[needs("admin")],
)
async def retire(task: str, request: Request, services: ServicesHere) -> None:
    """Its version numbers stay used. Answered once what was asked of it before has been (`--unload-seconds`)."""
    await change(services, services.registry.retire, task, caller(request))
    await unloaded(services, task)


@router.delete(
    "/adapters/{task}/versions/{version}",
    status_code=204,
    responses=documented(404, 409, 422, 500, 507),
    summary="Remove a version that is not active",
    dependencies=[needs("admin")],
)
async def delete(task: str, version: int, request: Request, services: ServicesHere) -> None:
    """Answered once what was asked of it before has been (`--unload-seconds`)."""
    await change(services, services.registry.delete, task, version, caller(request))
    await unloaded(services, task)


async def change(services: Services, change: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Runs a change of the registry beside the event loop."""
    return await asyncio.get_running_loop().run_in_executor(services.changes, partial(change, *arguments, **named))


async def unloaded(services: Services, task: str) -> None:
    """Waits until the memory is free of what the task was just relieved of; no longer than the settings say."""
    leaving, give_up = services.registry.leaving(task), monotonic() + services.settings.unload_seconds
    while any(one() is not None for one in leaving):
        if monotonic() >= give_up:
            log.warning("task %s: what is deleted or unloaded still answers rows that were admitted on it", task)
            return
        await asyncio.sleep(LOOK_SECONDS)


def caller(request: Request) -> str:
    """Who asks, for the log: a key's name, or where no keys are asked for, an address."""
    if request.state.key is None and request.client:
        return request.client.host
    return str(request.state.caller)


def version_answer(task: Task, version: Version) -> VersionAnswer:
    roles = {task.active: "active", task.candidate.version if task.candidate else None: "candidate"}
    state = "refused" if version.problem else roles.get(version.number, "inactive")
    return VersionAnswer(
        task=task.name,
        version=version.number,
        digest=version.digest,
        bytes=version.bytes,
        state=state,
        problem=version.problem,
        proof=version.proof,
    )


def adapter_answer(services: Services, task: Task) -> AdapterAnswer:
    trial = services.trials.of(task.name)
    return AdapterAnswer(
        task=task.name,
        active=task.active,
        candidate=_candidate_answer(trial) if trial is not None else None,
        versions=[version_answer(task, version) for _, version in sorted(task.versions.items())],
    )


def _candidate_answer(trial: Trial) -> CandidateAnswer:
    return CandidateAnswer(
        **trial.candidate.model_dump(),
        since=trial.since,
        compared=trial.compared,
        agreed=trial.inputs["agreed"],
        agreement=trial.agreement,
        failed=trial.inputs["failed"],
        dropped=trial.inputs["dropped"],
        seen={
            role: SeenAnswer(
                version=seen.version,
                requests=seen.requests,
                failed=seen.failed,
                latency=Latency(p50=seen.latency(0.5), p95=seen.latency(0.95)),
            )
            for role, seen in trial.seen.items()
        },
    )


def _bare(services: Services) -> Task:
    """The bare base as a task."""
    return Task(BARE_TASK, {0: services.registry.version(BARE_TASK)}, active=0)


def _task_answer(services: Services, task: Task) -> TaskAnswer:
    version = task.versions.get(-1 if task.serving is None else task.serving)
    reason = task.behind.reason if task.behind is not None else None
    if version is None or version.manifest is None:
        return TaskAnswer(task=task.name, active=task.active, reason=reason)
    manifest = version.manifest
    return TaskAnswer(
        task=task.name,
        active=task.active,
        version=version.number,
        reason=reason,
        kind=manifest.kind,
        labels=manifest.labels,
        pair=manifest.head.pair,
        digest=version.digest,
        method=manifest.method.name,
        metric=manifest.trained.metric if manifest.trained else None,
        value=manifest.trained.value if manifest.trained else None,
        test_value=manifest.trained.test_value if manifest.trained else None,
        description=manifest.description,
        resident=services.registry.holds(task.name, version.number),
        parameters=version.parameters,
    )
