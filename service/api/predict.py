"""POST /predict/{task}: text in, answers out; POST /predict: one text, many tasks."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic_core import to_json

from service.api.access import check_tasks, needs
from service.api.answering import Answered, Sent, answer, counted, find, refuse_early
from service.api.body import read_json
from service.api.problems import documented
from service.api.schemas import Inputs, Parameters, PredictAnswer, PredictManyAnswer, PredictManyRequest, PredictRequest
from service.api.services import ServicesHere
from service.api.timing import timed, timed_body
from service.serving.scheduler import SEVERAL

VERSION, DIGEST = "Rootstock-Version", "Rootstock-Digest"  # of what answered
SERVED = {
    VERSION: {"description": "The version that answered.", "schema": {"type": "integer"}},
    DIGEST: {"description": "The SHA-256 of its file.", "schema": {"type": "string"}},
}

router = APIRouter(tags=["predict"], dependencies=[needs("predict")])


@router.post(
    "/predict/{task}",
    response_model=PredictAnswer,
    responses={200: {"headers": SERVED}, **documented(400, 404, 413, 415, 422, 429, 500, 503, 504)},
    openapi_extra=timed_body(PredictRequest),
    summary="Answer texts with one task",
)
async def predict(task: str, request: Request, services: ServicesHere) -> Response:
    with counted(services) as tasks:
        async with timed(request, services.settings) as time:
            refuse_early(services, task, tasks)
            wanted = await read_json(request, PredictRequest, services.settings)
            resident = await find(services, task, wanted.parameters.version)
            tasks.append(task)
            [one] = await answer(request, services, time, {task: resident}, _listed(wanted.inputs), wanted.parameters)
            return _response(_document(one), {VERSION: str(resident.version), DIGEST: resident.digest})


@router.post(
    "/predict",
    response_model=PredictManyAnswer,
    responses=documented(400, 404, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra=timed_body(PredictManyRequest),
    summary="Answer texts with several tasks at once",
)
async def predict_many(request: Request, services: ServicesHere) -> Response:
    with counted(services) as tasks:
        async with timed(request, services.settings) as time:
            refuse_early(services, SEVERAL, tasks)
            wanted = await read_json(request, PredictManyRequest, services.settings)
            check_tasks(request, wanted.tasks)
            residents = {task: await find(services, task) for task in wanted.tasks}
            tasks.extend(residents)
            parameters = Parameters(**wanted.parameters.model_dump())
            answers = await answer(request, services, time, residents, _listed(wanted.inputs), parameters)
            return _response({"answers": [_document(one) for one in answers]})


def _listed(inputs: Inputs) -> Sequence[Sent]:
    return inputs if isinstance(inputs, list) else [inputs]


def _response(document: object, headers: dict[str, str] | None = None) -> Response:
    # A terminal shows it on its own line.
    return Response(to_json(document) + b"\n", media_type="application/json", headers=headers)


def _document(answered: Answered) -> dict[str, Any]:
    """The answer as the API documents it."""
    asked, resident = answered.asked, answered.asked.resident
    return {
        "task": asked.task,
        "version": resident.version,
        "digest": resident.digest,
        "kind": resident.manifest.kind,
        "predictions": [prediction.answer for prediction in answered.predictions],
        "usage": {"tokens": asked.tokens, "truncated": asked.truncated},
    }
