"""POST /predict/{task}: text in, answers out."""

import asyncio
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from itertools import islice
from time import perf_counter

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic_core import to_json

from service.adapters.manifest import MAX_LABELS, Manifest
from service.api.body import body_schema, read_json
from service.api.problems import documented
from service.api.schemas import Parameters, PredictAnswer, PredictRequest, QuestionInput, TextInput
from service.api.services import Services, ServicesHere
from service.engine.bank import Resident
from service.engine.base_model import BaseModel
from service.engine.engine import Row
from service.errors import BadInput, CallerLeft, EngineFault, RootstockError
from service.tasks import Answer, Floats, Given, Reading, read_for

INLINE_CHARACTERS = 4096  # more text than this is tokenised beside the event loop, not on it
INLINE_NUMBERS = 20_000  # more outputs than this are decoded there
MAX_SCORES = 500_000  # in one answer

router = APIRouter(tags=["predict"])


@router.post(
    "/predict/{task}",
    response_model=PredictAnswer,
    responses=documented(400, 404, 413, 415, 422, 500, 503),
    openapi_extra=body_schema(PredictRequest),
    summary="Answer texts with one task",
)
async def predict(task: str, request: Request, services: ServicesHere) -> Response:
    started = perf_counter()
    outcome = "failed"
    known = ""  # a label of its own for every name that anyone makes up would fill the metrics
    try:
        wanted = await read_json(request, PredictRequest, services.settings)
        resident = await _find(services, task, wanted.parameters.version)
        known = task
        answer = await _answer(request, services, task, resident, wanted)
        outcome = "answered"
        return answer
    except RootstockError as error:
        outcome = error.code
        raise
    except asyncio.CancelledError:
        outcome = "cancelled"
        raise
    finally:
        services.metrics.requests.labels(known, outcome).inc()
        services.metrics.request_seconds.observe(perf_counter() - started)


async def _find(services: Services, task: str, version: int | None) -> Resident:
    resident = services.registry.ready(task, version)
    if resident is not None:
        return resident
    return await asyncio.to_thread(services.registry.resident, task, version)


async def _answer(
    request: Request, services: Services, task: str, resident: Resident, wanted: PredictRequest
) -> Response:
    inputs = _inputs(wanted, resident, services.settings.max_inputs)
    readings = await _read(services.base, inputs, resident, wanted.parameters)
    rows = [row for reading in readings for row in reading.rows]
    future = services.runner.submit([Row(row, resident) for row in rows])
    outputs = await _while_awaited(request, future)

    def respond() -> Response:
        answer = {
            "task": task,
            "version": resident.version,
            "digest": resident.digest,
            "kind": resident.manifest.kind,
            "predictions": _decoded(task, resident, readings, outputs, wanted.parameters),
            "usage": {
                "tokens": sum(map(len, rows)),
                "truncated": sum(reading.truncated for reading in readings),
            },
        }
        return Response(to_json(answer) + b"\n", media_type="application/json")  # a terminal shows it on its own line

    if sum(raw.size for raw in outputs) > INLINE_NUMBERS:
        return await asyncio.to_thread(respond)
    return respond()


async def _while_awaited(request: Request, future: Future[list[Floats]]) -> list[Floats]:
    """The engine's outputs; the job is given up when the caller goes away.

    Raises:
        CallerLeft
    """
    outputs = asyncio.wrap_future(future)
    leaving = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((outputs, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not outputs.done():
            raise CallerLeft("the caller left before the answer")
        return outputs.result()
    finally:
        outputs.cancel()
        leaving.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _inputs(wanted: PredictRequest, resident: Resident, limit: int) -> list[Given]:
    """The inputs, checked against what the task reads.

    Raises:
        BadInput: naming the input by its place.
    """
    given = wanted.inputs if isinstance(wanted.inputs, list) else [wanted.inputs]
    if len(given) > limit:
        raise BadInput(f"inputs: {len(given)} in one request; at most {limit} are answered")
    scores = len(given) * min(len(resident.manifest.labels), wanted.parameters.top_k or MAX_LABELS)
    if scores > MAX_SCORES:
        raise BadInput(f"inputs: {scores} scores in one answer, at most {MAX_SCORES} are given; name top_k")
    return [_given(resident.manifest, f"inputs[{index}]", one) for index, one in enumerate(given)]


def _given(manifest: Manifest, place: str, sent: str | TextInput | QuestionInput) -> Given:
    names = ("question", "context") if manifest.kind == "answer" else ("text", "text_pair")
    found = {"text": sent} if isinstance(sent, str) else sent.model_dump(exclude_none=True)
    needed = names if manifest.head.pair else names[:1]
    if set(found) != set(needed):
        raise BadInput(f"{place}: the task reads {_form(needed)}; {_form(found)} was sent")
    for name, value in found.items():
        if not value.strip():
            raise BadInput(f"{place}: {name} is empty")
    return Given(*(found[name] for name in needed))


def _form(names: Collection[str]) -> str:
    return "a text" if set(names) == {"text"} else f"{{{', '.join(names)}}}"


async def _read(base: BaseModel, inputs: Sequence[Given], resident: Resident, parameters: Parameters) -> list[Reading]:
    arguments = (resident.manifest, base.tokenizer, inputs)
    if sum(len(given.text) + len(given.text_pair or "") for given in inputs) > INLINE_CHARACTERS:
        readings = await asyncio.to_thread(read_for, *arguments)
    else:
        readings = read_for(*arguments)
    if not parameters.truncate:
        for index, reading in enumerate(readings):
            if reading.truncated:
                longest = resident.manifest.tokenizer.max_length
                raise BadInput(f"inputs[{index}]: longer than the task's {longest} tokens, and truncate is false")
    return readings


def _decoded(
    task: str, resident: Resident, readings: Sequence[Reading], outputs: Sequence[Floats], parameters: Parameters
) -> list[Answer]:
    left = iter(outputs)
    return [_decode(task, resident, reading, list(islice(left, len(reading.rows))), parameters) for reading in readings]


def _decode(task: str, resident: Resident, reading: Reading, raw: Sequence[Floats], parameters: Parameters) -> Answer:
    finite = all(np.isfinite(part).all() for part in raw)
    with np.errstate(all="ignore"):  # judged by what comes out
        prediction = resident.kind.decode(resident.manifest, reading, raw, parameters.top_k)
    if not (finite and np.isfinite(prediction.outputs).all()):
        raise EngineFault(f"task {task} version {resident.version} put out a value that is not a finite number")
    return prediction.answer
