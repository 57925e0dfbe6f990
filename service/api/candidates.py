"""/adapters/{task}/candidate: a gradual release, from its start to its end."""

from fastapi import APIRouter, Request

from service.api.access import needs
from service.api.adapters import adapter_answer, caller, change, version_answer
from service.api.body import body_schema, read_json
from service.api.problems import documented
from service.api.schemas import AdapterAnswer, CandidateRequest, VersionAnswer
from service.api.services import ServicesHere
from service.registry.release import Candidate

router = APIRouter(prefix="/adapters/{task}/candidate", tags=["adapters"], dependencies=[needs("upload")])


@router.post(
    "",
    responses=documented(400, 404, 409, 413, 415, 422, 500, 503, 507),
    openapi_extra=body_schema(CandidateRequest),
    summary="Try a version beside the active one, or change how much",
)
async def nominate(task: str, request: Request, services: ServicesHere) -> AdapterAnswer:
    """Its share of the requests is run by both versions, and the mode says which of the two answers. Called again, it
    changes mode and share. Answers as GET /adapters/{task} does."""
    wanted = await read_json(request, CandidateRequest, services.settings)
    share = 1.0 if wanted.share is None else wanted.share
    candidate = Candidate(version=wanted.version, mode=wanted.mode, share=share)
    return adapter_answer(
        services, await change(services, services.registry.nominate, task, candidate, caller(request))
    )


@router.post(
    "/promote", responses=documented(404, 409, 422, 500, 503, 507), summary="Make the candidate the active version"
)
async def promote(task: str, request: Request, services: ServicesHere) -> VersionAnswer:
    """From the next request on."""
    version = await change(services, services.registry.promote, task, caller(request))
    return version_answer(services.registry.task(task), version)


@router.delete(
    "",
    status_code=204,
    responses=documented(404, 422, 500, 507),
    summary="Abandon the candidate; its version stays as an inactive one",
)
async def abandon(task: str, request: Request, services: ServicesHere) -> None:
    await change(services, services.registry.abandon, task, caller(request))
