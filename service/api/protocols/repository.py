"""The Open Inference Protocol's model repository extension: what there is, and what of it is in memory.

Loading and unloading are about memory alone. A task that was unloaded is served all the same: its adapter is read again
when somebody asks.
"""

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from service.api.access import needs, reaches
from service.api.adapters import unloaded
from service.api.answering import find
from service.api.body import body_schema, read_inference
from service.api.protocols.inference import ANYWHERE, refusals
from service.api.services import ServicesHere
from service.engine.bank import BARE_TASK
from service.registry.versions import Version
from service.strict import Strict

router = APIRouter(prefix="/v2/repository", tags=["open inference protocol"], responses=ANYWHERE)


class _Request(Strict):
    model_config = ConfigDict(strict=True)


class IndexRequest(_Request):
    ready: bool = Field(default=False, description="leave out what cannot answer")


class NoParameters(_Request):
    """There are none: adapters come by PUT /adapters/{task}."""


class LoadRequest(_Request):
    parameters: NoParameters = NoParameters()


class UnloadParameters(_Request):
    unload_dependents: bool = Field(default=False, description="of which there are none")


class UnloadRequest(_Request):
    parameters: UnloadParameters = UnloadParameters()


class IndexAnswer(BaseModel):
    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str = Field(description="why it cannot answer; empty where it can")


@router.post(
    "/index",
    responses=refusals(400, 413, 415, 422),
    openapi_extra=body_schema(IndexRequest),
    dependencies=[needs()],
    summary="All versions of the tasks that the key reaches",
)
async def index(request: Request, services: ServicesHere) -> list[IndexAnswer]:
    wanted, _ = await read_inference(request, IndexRequest, services.settings)
    found = [(BARE_TASK, services.registry.version(BARE_TASK))]
    for task in services.registry.tasks():
        found += ((task.name, version) for version in task.versions.values())
    reached = (one for one in found if reaches(request, one[0]))
    listed = (_entry(name, version) for name, version in sorted(reached, key=lambda one: (one[0], one[1].number)))
    return [one for one in listed if one.state == "READY" or not wanted.ready]


@router.post(
    "/models/{task}/load",
    responses=refusals(400, 404, 413, 415, 422, 500),
    openapi_extra=body_schema(LoadRequest),
    dependencies=[needs("upload")],
    summary="Take a task's active version into memory",
)
async def load(task: str, request: Request, services: ServicesHere) -> dict[str, Any]:
    await read_inference(request, LoadRequest, services.settings)
    await find(services, task)
    return {}


@router.post(
    "/models/{task}/unload",
    responses=refusals(400, 404, 409, 413, 415, 422),
    openapi_extra=body_schema(UnloadRequest),
    dependencies=[needs("upload")],
    summary="Let a task's memory go, until somebody asks for it",
)
async def unload(task: str, request: Request, services: ServicesHere) -> dict[str, Any]:
    await read_inference(request, UnloadRequest, services.settings)
    await asyncio.to_thread(services.registry.release, task)
    await unloaded(services, task)
    return {}


def _entry(name: str, version: Version) -> IndexAnswer:
    state: Literal["READY", "UNAVAILABLE"] = "READY" if version.problem is None else "UNAVAILABLE"
    return IndexAnswer(name=name, version=str(version.number), state=state, reason=version.problem or "")
