"""Request bodies: bounded while they arrive, and checked in one pass."""

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from service.api.schemas import FORMS
from service.errors import BadInput, TooLarge, UnsupportedMedia

M = TypeVar("M", bound=BaseModel)


async def read_json(request: Request, model: type[M], limit: int) -> M:
    """The body as `model`.

    Raises:
        TooLarge, UnsupportedMedia, BadInput: naming the first field that is wrong.
    """
    _expect(request, "application/json")
    data = await read_bytes(request, limit)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"the body is not UTF-8: byte {error.start} cannot be read") from error
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise BadInput(describe(error)) from error


async def read_file(request: Request, limit: int) -> bytes:
    """The body as raw bytes.

    Raises:
        TooLarge, UnsupportedMedia
    """
    _expect(request, "application/octet-stream")
    return await read_bytes(request, limit)


async def read_bytes(request: Request, limit: int) -> bytes:
    """The body; no more than `limit` of it is ever held.

    Raises:
        TooLarge
        BadInput: the body does not arrive whole, or its length is no number.
    """
    too_large = TooLarge(f"the body has more than {limit} bytes, the most that is read here")
    try:
        if int(request.headers.get("content-length") or 0) > limit:
            raise too_large
    except ValueError as error:
        raise BadInput("Content-Length is not a number") from error
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > limit:
                raise too_large
    except ClientDisconnect as error:
        raise BadInput("the caller left before the body was whole") from error
    return bytes(data)


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI of a body that `read_json` reads. Parts stand where they are used: FastAPI would not define them."""
    schema = model.model_json_schema()
    inlined = _inline(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined}}}}


def describe(error: ValidationError) -> str:
    """The first thing that is wrong, with its place in the body."""
    first = error.errors(include_url=False)[0]
    # The forms' names are our words, not the caller's.
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"] if part not in FORMS)
    return f"{place.lstrip('.') + ': ' if place else ''}{first['msg']}"


def _inline(part: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(part, list):
        return [_inline(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        part = definitions[part["$ref"].rpartition("/")[2]] | {
            name: value for name, value in part.items() if name != "$ref"
        }
    return {name: _inline(value, definitions) for name, value in part.items()}


def _expect(request: Request, media: str) -> None:
    """An absent media type is taken on trust; a wrong one is refused."""
    sent = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if sent and sent != media:
        raise UnsupportedMedia(f"the body's media type is {sent}; send it with Content-Type: {media}")
