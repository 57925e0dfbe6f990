"""POST /predict/{task}: text in, answers out."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from time import perf_counter
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic_core import to_json

from service.adapters.manifest import MAX_LABELS
from service.api.body import body_schema, read_json
from service.api.problems import documented
from service.api.schemas import Parameters, PredictAnswer, PredictRequest, TextInput
from service.api.services import Services, ServicesHere
from service.engine.bank import Resident
from service.engine.base_model import BaseModel
from service.engine.engine import Row
from service.engine.tokens import TokenizedRow, tokenize
from service.errors import BadInput, CallerLeft, EngineFault, RootstockError
from service.tasks import Floats

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
    texts = _texts(wanted, resident, services.settings.max_inputs)
    rows = await _tokenize(services.base, texts, resident, wanted.parameters)
    future = services.runner.submit([Row(row, resident) for row in rows])
    outputs = await _while_awaited(request, future)

    def respond() -> Response:
        answer = {
            "task": task,
            "version": resident.version,
            "digest": resident.digest,
            "kind": resident.manifest.kind,
            "predictions": [_decode(task, resident, raw, wanted.parameters) for raw in outputs],
            "usage": {"tokens": sum(map(len, rows)), "truncated": sum(row.truncated for row in rows)},
        }
        return Response(to_json(answer), media_type="application/json")

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


def _texts(wanted: PredictRequest, resident: Resident, limit: int) -> list[TextInput]:
    """The inputs, checked against what the task reads.

    Raises:
        BadInput: naming the input by its place.
    """
    inputs = wanted.inputs if isinstance(wanted.inputs, list) else [wanted.inputs]
    if len(inputs) > limit:
        raise BadInput(f"inputs: {len(inputs)} in one request; at most {limit} are answered")
    scores = len(inputs) * min(len(resident.manifest.labels), wanted.parameters.top_k or MAX_LABELS)
    if scores > MAX_SCORES:
        raise BadInput(f"inputs: {scores} scores in one answer, at most {MAX_SCORES} are given; name top_k")
    texts = [TextInput(text=given) if isinstance(given, str) else given for given in inputs]
    pair = resident.manifest.head.pair
    for index, given in enumerate(texts):
        if pair and given.text_pair is None:
            raise BadInput(f"inputs[{index}]: the task compares two texts; send {{text, text_pair}}")
        if not pair and given.text_pair is not None:
            raise BadInput(f"inputs[{index}]: the task reads one text; it has no use for text_pair")
        for field in ("text", "text_pair"):
            if (value := getattr(given, field)) is not None and not value.strip():
                raise BadInput(f"inputs[{index}]: {field} is empty")
    return texts


async def _tokenize(
    base: BaseModel, given: Sequence[TextInput], resident: Resident, parameters: Parameters
) -> list[TokenizedRow]:
    texts = [one.text for one in given]
    pairs = [one.text_pair or "" for one in given] if resident.manifest.head.pair else None
    arguments = (base.tokenizer, texts, pairs, resident.manifest.tokenizer.max_length)
    if sum(map(len, texts)) + sum(map(len, pairs or ())) > INLINE_CHARACTERS:
        rows = await asyncio.to_thread(tokenize, *arguments)
    else:
        rows = tokenize(*arguments)
    if not parameters.truncate:
        for index, row in enumerate(rows):
            if row.truncated:
                longest = resident.manifest.tokenizer.max_length
                raise BadInput(f"inputs[{index}]: longer than the task's {longest} tokens, and truncate is false")
    return rows


def _decode(task: str, resident: Resident, raw: Floats, parameters: Parameters) -> dict[str, Any]:
    with np.errstate(all="ignore"):  # judged by what comes out
        prediction = resident.kind.decode(resident.manifest, raw, parameters.top_k)
    if not (np.isfinite(raw).all() and np.isfinite(prediction.outputs).all()):
        raise EngineFault(f"task {task} version {resident.version} put out a value that is not a finite number")
    return prediction.answer
