"""POST /predict/{task}: text in, answers out; POST /predict: one text, many tasks."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic_core import to_json

from service.api.answering import Sent, answer
from service.api.body import body_schema, read_json
from service.api.problems import documented
from service.api.schemas import Inputs, Parameters, PredictAnswer, PredictManyAnswer, PredictManyRequest, PredictRequest
from service.api.services import Services, ServicesHere
from service.engine.bank import Resident
from service.errors import RootstockError

VERSION, DIGEST = "Rootstock-Version", "Rootstock-Digest"  # of what answered
SERVED = {
    VERSION: {"description": "The version that answered.", "schema": {"type": "integer"}},
    DIGEST: {"description": "The SHA-256 of its file.", "schema": {"type": "string"}},
}

router = APIRouter(tags=["predict"])


@router.post(
    "/predict/{task}",
    response_model=PredictAnswer,
    responses={200: {"headers": SERVED}, **documented(400, 404, 413, 415, 422, 500, 503)},
    openapi_extra=body_schema(PredictRequest),
    summary="Answer texts with one task",
)
async def predict(task: str, request: Request, services: ServicesHere) -> Response:
    with _counted(services) as tasks:
        wanted = await read_json(request, PredictRequest, services.settings)
        resident = await _find(services, task, wanted.parameters.version)
        tasks.append(task)
        [one] = await answer(request, services, {task: resident}, _listed(wanted.inputs), wanted.parameters)
        return _response(one, {VERSION: str(resident.version), DIGEST: resident.digest})


@router.post(
    "/predict",
    response_model=PredictManyAnswer,
    responses=documented(400, 404, 413, 415, 422, 500, 503),
    openapi_extra=body_schema(PredictManyRequest),
    summary="Answer texts with several tasks at once",
)
async def predict_many(request: Request, services: ServicesHere) -> Response:
    with _counted(services) as tasks:
        wanted = await read_json(request, PredictManyRequest, services.settings)
        residents = {task: await _find(services, task) for task in wanted.tasks}
        tasks.extend(residents)
        parameters = Parameters(**wanted.parameters.model_dump())
        answers = await answer(request, services, residents, _listed(wanted.inputs), parameters)
        return _response({"answers": answers})


async def _find(services: Services, task: str, version: int | None = None) -> Resident:
    resident = services.registry.ready(task, version)
    if resident is not None:
        return resident
    # Shielded: the file may be read for others too, who go on waiting where this one leaves.
    return await asyncio.shield(asyncio.wrap_future(services.registry.fetch(task, version)))


def _listed(inputs: Inputs) -> Sequence[Sent]:
    return inputs if isinstance(inputs, list) else [inputs]


def _response(document: object, headers: dict[str, str] | None = None) -> Response:
    # A terminal shows it on its own line.
    return Response(to_json(document) + b"\n", media_type="application/json", headers=headers)


@contextmanager
def _counted(services: Services) -> Iterator[list[str]]:
    """Counts a request by its outcome, under each task that is put into the list.

    Only tasks that are served: a label of its own for every name that anyone makes up would fill the metrics.
    """
    started = perf_counter()
    outcome = "failed"
    tasks: list[str] = []
    try:
        yield tasks
        outcome = "answered"
    except RootstockError as error:
        outcome = error.code
        raise
    except asyncio.CancelledError:
        outcome = "cancelled"
        raise
    finally:
        for task in tasks or [""]:
            services.metrics.requests.labels(task, outcome).inc()
        services.metrics.request_seconds.observe(perf_counter() - started)
