"""Open Inference Protocol v2 over HTTP: health, metadata, infer. A task is a model; texts go in, tensors come out."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic_core import to_json

from service import __version__
from service.api import operations
from service.api.access import needs
from service.api.account import counted
from service.api.answering import Answered, refuse_early
from service.api.body import BYTES, JSON, JSON_LENGTH, read_inference
from service.api.protocols.errors import InferenceError
from service.api.protocols.models import answered, chosen, inputs_from, inputs_of, outputs_of
from service.api.protocols.tensors import InputTensor, Name, OutputTensor, read_texts
from service.api.routing import SERVED, StickyKey, answer_routed, headers, route
from service.api.schemas import Parameters
from service.api.services import Services, ServicesHere
from service.api.timing import timed, timed_body
from service.engine.bank import BARE_TASK
from service.registry.versions import Version
from service.strict import Strict

PLATFORM = "rootstock"
EXTENSIONS = ["binary_tensor_data", "model_repository"]


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": InferenceError} for status in statuses}


ANYWHERE = refusals(401, 403, 421, 503)  # for what stands before every route

# Left out where the path has none; where it does, none is no number.
Number = Annotated[int | None, WithJsonSchema({"type": "integer"})]

router = APIRouter(prefix="/v2", tags=["open inference protocol"], responses=ANYWHERE)


class _Request(Strict):
    model_config = ConfigDict(strict=True)


class OutputParameters(_Request):
    binary_data: bool | None = None


class WantedOutput(_Request):
    name: Name
    parameters: OutputParameters = OutputParameters()


class InferParameters(_Request):
    truncate: bool = Field(default=True, description="cut inputs over the task's length; false: refuse them")
    binary_data_output: bool = Field(default=False, description="answer with bytes where an output does not say")
    timeout: int | None = Field(default=None, ge=0, description="microseconds; 0: as if it were left out")

    @property
    def seconds(self) -> float | None:
        return self.timeout / 1e6 if self.timeout else None


class InferRequest(_Request):
    inputs: list[InputTensor] = Field(min_length=1, max_length=2)
    outputs: list[WantedOutput] | None = Field(default=None, max_length=16, description="all, when left out")
    parameters: InferParameters = InferParameters()
    id: Annotated[str, Field(max_length=200)] | None = None


class ServerAnswer(BaseModel):
    name: str
    version: str
    extensions: list[str]


class TensorAnswer(BaseModel):
    name: str
    datatype: str
    shape: list[int] = Field(description="-1 where the inputs decide")


class ModelAnswer(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorAnswer]
    outputs: list[TensorAnswer]


class InferAnswer(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any] = Field(description="digest, tokens, truncated")
    outputs: list[dict[str, Any]] = Field(description="{name, datatype, shape} and data, or where in the bytes it is")


ASKED: Mapping[str, Any] = {"responses": refusals(404, 422), "dependencies": [needs()]}


@router.get("", summary="The server's name and extensions", dependencies=[needs()])
async def server() -> ServerAnswer:
    return ServerAnswer(name=PLATFORM, version=__version__, extensions=EXTENSIONS)


@router.get("/health/live", summary="As /healthz")
async def live(request: Request, services: ServicesHere) -> Response:
    status = (await operations.healthz(request, services)).status_code
    return JSONResponse({"live": status == 200}, status)


@router.get("/health/ready", summary="As /readyz")
async def ready(request: Request, services: ServicesHere) -> Response:
    status = (await operations.readyz(request, services)).status_code
    return JSONResponse({"ready": status == 200}, status)


@router.get("/models/{task}/ready", **ASKED, summary="Whether a task answers")
@router.get("/models/{task}/versions/{version}/ready", **ASKED, summary="The same of a version")
async def model_ready(task: str, services: ServicesHere, version: Number = None) -> dict[str, Any]:
    services.registry.version(task, version)
    return {"name": task, "ready": True}


@router.get("/models/{task}", **ASKED, summary="The tensors of a task")
@router.get("/models/{task}/versions/{version}", **ASKED, summary="The same of a version")
async def model(task: str, services: ServicesHere, version: Number = None) -> ModelAnswer:
    manifest = services.registry.version(task, version).manifest
    assert manifest is not None  # it is served
    return ModelAnswer(
        name=task,
        versions=[str(one.number) for one in _versions(services, task) if one.problem is None],
        platform=PLATFORM,
        inputs=[TensorAnswer(**one) for one in inputs_of(manifest)],
        outputs=[TensorAnswer(**one) for one in outputs_of(manifest)],
    )


INFER: Mapping[str, Any] = {
    "response_model": InferAnswer,
    "responses": {200: {"headers": SERVED}, **refusals(400, 404, 413, 415, 422, 429, 500, 503, 504)},
    "openapi_extra": timed_body(InferRequest),
    "dependencies": [needs("predict")],
}


@router.post("/models/{task}/infer", **INFER, summary="Answer texts with one task")
@router.post("/models/{task}/versions/{version}/infer", **INFER, summary="The same by a version")
async def infer(
    task: str,
    request: Request,
    services: ServicesHere,
    version: Number = None,
    sticky_key: StickyKey = None,
) -> Response:
    with counted(request, services.metrics) as tasks:
        async with timed(request, services.settings) as time:
            refuse_early(services, task, tasks)
            wanted, binary = await read_inference(request, InferRequest, services.settings)
            time.within(wanted.parameters.seconds)
            manifest = services.registry.version(task, version).manifest
            assert manifest is not None  # it is served
            tasks.append(task)
            # A candidate reads and answers as the active version does.
            outputs = chosen(manifest, [one.name for one in wanted.outputs or ()])
            inputs = inputs_from(manifest, read_texts(wanted.inputs, binary))
            parameters = Parameters(truncate=wanted.parameters.truncate)
            routes = {task: await route(services, task, inputs, sticky_key, version)}
            [found] = await answer_routed(request, services, routes, inputs, parameters)
            return _response(wanted, found, answered(found.asked.resident.manifest, outputs, found.predictions))


def _response(wanted: InferRequest, found: Answered, tensors: Sequence[OutputTensor]) -> Response:
    asked = found.asked
    binary = {one.name: one.parameters.binary_data for one in wanted.outputs or ()}
    described, rest = [], []
    for tensor in tensors:
        as_bytes = binary.get(tensor.name)
        if wanted.parameters.binary_data_output if as_bytes is None else as_bytes:
            rest.append(tensor.packed())
            described.append(tensor.described() | {"parameters": {"binary_data_size": len(rest[-1])}})
        else:
            described.append(tensor.described() | {"data": tensor.flat()})
    head = to_json(
        {
            "model_name": asked.task,
            "model_version": str(asked.resident.version),
            **({"id": wanted.id} if wanted.id is not None else {}),
            "parameters": {
                "digest": asked.resident.digest,
                "tokens": asked.tokens,
                "truncated": asked.truncated,
            },
            "outputs": described,
        }
    )
    if not rest:
        return Response(head, media_type=JSON, headers=headers(found))
    return Response(b"".join([head, *rest]), media_type=BYTES, headers={JSON_LENGTH: str(len(head)), **headers(found)})


def _versions(services: Services, task: str) -> Sequence[Version]:
    if task == BARE_TASK:
        return [services.registry.version(task)]
    return [version for _, version in sorted(services.registry.task(task).versions.items())]
