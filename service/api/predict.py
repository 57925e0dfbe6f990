"""POST /predict/{task}: text in, answers out; POST /predict: one text, many tasks."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic_core import to_json

from service.api.access import check_tasks, needs
from service.api.account import counted
from service.api.answering import Answered, Sent, refuse_early
from service.api.body import read_json
from service.api.problems import documented
from service.api.routing import SERVED, StickyKey, answer_routed, headers, route
from service.api.schemas import Inputs, Parameters, PredictAnswer, PredictManyAnswer, PredictManyRequest, PredictRequest
from service.api.services import ServicesHere
from service.api.timing import timed, timed_body
from service.serving.scheduler import SEVERAL

router = APIRouter(tags=["predict"], dependencies=[needs("predict")])


@router.post(
    "/predict/{task}",
    response_model=PredictAnswer,
    responses={200: {"headers": SERVED}, **documented(400, 404, 413, 415, 422, 429, 500, 503, 504)},
    openapi_extra=timed_body(PredictRequest),
    summary="Answer texts with one task",
)
async def predict(task: str, request: Request, services: ServicesHere, sticky_key: StickyKey = None) -> Response:
    """Which version answered stands in the answer, and in the headers `Rootstock-Version` and `Rootstock-Digest`."""
    with counted(request, services.metrics) as tasks:
        async with timed(request, services.settings) as time:
            refuse_early(services, task, tasks)
            wanted = await read_json(request, PredictRequest, services.settings)
            time.within(wanted.parameters.timeout)
            inputs = _listed(wanted.inputs)
            routes = {task: await route(services, task, inputs, sticky_key, wanted.parameters.version)}
            tasks.append(task)
            [one] = await answer_routed(request, services, routes, inputs, wanted.parameters)
            return _response(_document(one), headers(one))


@router.post(
    "/predict",
    response_model=PredictManyAnswer,
    responses=documented(400, 404, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra=timed_body(PredictManyRequest),
    summary="Answer texts with several tasks at once",
)
async def predict_many(request: Request, services: ServicesHere, sticky_key: StickyKey = None) -> Response:
    """One answer for each task. A text is read once, and what the tasks have in common is computed once."""
    with counted(request, services.metrics) as tasks:
        async with timed(request, services.settings) as time:
            refuse_early(services, SEVERAL, tasks)
            wanted = await read_json(request, PredictManyRequest, services.settings)
            time.within(wanted.parameters.timeout)
            check_tasks(request, wanted.tasks)
            inputs = _listed(wanted.inputs)
            routes = {task: await route(services, task, inputs, sticky_key) for task in wanted.tasks}
            tasks.extend(routes)
            parameters = Parameters(**wanted.parameters.model_dump())
            answers = await answer_routed(request, services, routes, inputs, parameters)
            document = {"answers": [_document(one) for one in answers]}
            return _response(document, headers(answers[0]) if len(answers) == 1 else None)


def _listed(inputs: Inputs) -> Sequence[Sent]:
    return inputs if isinstance(inputs, list) else [inputs]


def _response(document: object, served: dict[str, str] | None) -> Response:
    # A terminal shows it on its own line.
    return Response(to_json(document) + b"\n", media_type="application/json", headers=served)


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
