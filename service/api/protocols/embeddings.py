"""Embeddings in the forms of others: POST /embed as Text Embeddings Inference has it, POST /v1/embeddings as OpenAI."""

from base64 import b64encode
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import to_json

from service.api.access import check_tasks, needs
from service.api.account import counted
from service.api.answering import Answered, refuse_early
from service.api.body import JSON, read_json
from service.api.protocols.errors import EmbedError, OpenAIError
from service.api.routing import SERVED, StickyKey, answer_routed, headers, route
from service.api.schemas import Parameters
from service.api.services import Services, ServicesHere
from service.api.timing import timed, timed_body
from service.engine.bank import BARE_TASK
from service.errors import BadInput
from service.strict import Strict
from service.tasks import Floats

router = APIRouter(tags=["embeddings"], dependencies=[needs("predict")])

Texts = Annotated[
    list[str],
    Field(min_length=1, fail_fast=True, description="a text, or a list of them"),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value, json_schema_input_type=str | list[str]),
]
Dimensions = Annotated[int | None, Field(description="the vectors' length, which is the base's and no other")]


class _Request(Strict):
    model_config = ConfigDict(strict=True)


class EmbedRequest(_Request):
    inputs: Texts
    truncate: bool | None = Field(default=None, description="cut texts over the task's length; else refuse them")
    normalize: bool = Field(default=True, description="scale vectors to length one")
    truncation_direction: Literal["Right", "right"] = Field(default="Right", description="where texts are cut")
    prompt_name: None = Field(default=None, description="there are no prompts")
    dimensions: Dimensions = None


class EmbeddingsRequest(_Request):
    input: Texts
    model: str = Field(description="a task of kind embedding", examples=[BARE_TASK])
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="base64: of float32, low byte first"
    )
    dimensions: Dimensions = None
    user: str | None = Field(default=None, description="not looked at")


class OneEmbedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    object: Literal["list"] = "list"
    data: list[OneEmbedding]
    model: str
    usage: EmbeddingsUsage


STATUSES = (400, 401, 403, 404, 413, 415, 421, 422, 429, 500, 503, 504)


@router.post(
    "/embed",
    response_model=list[list[float]],
    responses={200: {"headers": SERVED}, **{status: {"model": EmbedError} for status in STATUSES}},
    openapi_extra=timed_body(EmbedRequest),
    summary=f"Vectors of task {BARE_TASK}, as Text Embeddings Inference gives them",
)
async def embed(request: Request, services: ServicesHere) -> Response:
    with counted(request, services.metrics) as tasks:
        async with timed(request, services.settings):
            refuse_early(services, BARE_TASK, tasks)
            wanted = await read_json(request, EmbedRequest, services.settings)
            found = await _embedded(
                request, services, BARE_TASK, tasks, wanted.inputs, wanted.dimensions, wanted.truncate
            )
            vectors = _vectors(found) if wanted.normalize else [rows[0] for rows in found.raw]
            return Response(to_json([_listed(vector) for vector in vectors]), media_type=JSON, headers=headers(found))


@router.post(
    "/v1/embeddings",
    response_model=EmbeddingsAnswer,
    responses={200: {"headers": SERVED}, **{status: {"model": OpenAIError} for status in STATUSES}},
    openapi_extra=timed_body(EmbeddingsRequest),
    summary="Vectors of a task of kind embedding, as OpenAI gives them",
)
async def embeddings(request: Request, services: ServicesHere, sticky_key: StickyKey = None) -> Response:
    with counted(request, services.metrics) as tasks:
        async with timed(request, services.settings):
            wanted = await read_json(request, EmbeddingsRequest, services.settings)
            refuse_early(services, wanted.model, tasks)
            # There is no place in the answer to say that a text was cut.
            found = await _embedded(
                request, services, wanted.model, tasks, wanted.input, wanted.dimensions, False, sticky_key
            )
            encode = _base64 if wanted.encoding_format == "base64" else _listed
            data = [
                {"object": "embedding", "index": index, "embedding": encode(vector)}
                for index, vector in enumerate(_vectors(found))
            ]
            usage = {"prompt_tokens": found.asked.tokens, "total_tokens": found.asked.tokens}
            document = {"object": "list", "data": data, "model": wanted.model, "usage": usage}
            return Response(to_json(document), media_type=JSON, headers=headers(found))


async def _embedded(
    request: Request,
    services: Services,
    task: str,
    tasks: list[str],
    texts: Sequence[str],
    dimensions: int | None,
    truncate: bool | None,
    sticky_key: str | None = None,
) -> Answered:
    """What a task of kind embedding answers.

    Args:
        tasks: of `counted`; the task is put into it once it is found.

    Raises:
        Forbidden
        BadInput: the task is of another kind, or its vectors of another length.
    """
    check_tasks(request, [task])
    one = await route(services, task, texts, sticky_key)
    tasks.append(task)
    manifest = one.resident.manifest
    if manifest.kind != "embedding":
        raise BadInput(f"model: task {task} is of kind {manifest.kind}; vectors come from kind embedding")
    if dimensions not in (None, manifest.base.hidden_size):
        raise BadInput(f"dimensions: the task's vectors have {manifest.base.hidden_size}, not {dimensions}")
    [found] = await answer_routed(request, services, {task: one}, texts, Parameters(truncate=bool(truncate)))
    return found


def _vectors(found: Answered) -> list[Floats]:
    return [prediction.outputs for prediction in found.predictions]


def _listed(vector: Floats) -> object:
    return vector.tolist()


def _base64(vector: Floats) -> object:
    return b64encode(vector.astype("<f4").tobytes()).decode()
