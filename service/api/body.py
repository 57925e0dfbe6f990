"""Request bodies: bounded while they arrive, in size and in time, and checked in one pass."""

import asyncio
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from service.api.schemas import FORMS
from service.errors import BadInput, CallerLeft, TooLarge, UnsupportedMedia
from service.settings import Settings

JSON, BYTES = "application/json", "application/octet-stream"
JSON_LENGTH = "Inference-Header-Content-Length"

M = TypeVar("M", bound=BaseModel)


async def read_json(request: Request, model: type[M], settings: Settings) -> M:
    """The body as `model`.

    The media type must be named: a page of another site may send a body without one, and then ask for nothing first.

    Raises:
        TooLarge, UnsupportedMedia, CallerLeft, BadInput: naming the first field that is wrong.
    """
    _refuse_all_but(request, JSON)
    return _parsed(await _read_bytes(request, settings.max_body_bytes, settings.body_seconds), model)


async def read_inference(request: Request, model: type[M], settings: Settings) -> tuple[M, bytes]:
    """The body as the Open Inference Protocol sends it: JSON, and the bytes after it if a header tells its length.

    The protocol's clients name no media type.

    Raises:
        TooLarge, UnsupportedMedia, CallerLeft, BadInput: naming the first field that is wrong.
    """
    length = request.headers.get(JSON_LENGTH)
    _refuse_all_but(request, JSON, "", *((BYTES,) if length is not None else ()))
    data = await _read_bytes(request, settings.max_body_bytes, settings.body_seconds)
    if length is None:
        return _parsed(data or b"{}", model), b""
    if not length.isdecimal() or int(length) > len(data):
        raise BadInput(f"{JSON_LENGTH} is {length}; the body has {len(data)} bytes")
    return _parsed(data[: int(length)], model), data[int(length) :]


async def read_file(request: Request, settings: Settings) -> bytes:
    """The body as raw bytes; its media type may be left out, as `curl -T` does.

    Raises:
        TooLarge, UnsupportedMedia, CallerLeft, BadInput
    """
    _refuse_all_but(request, BYTES, "")
    return await _read_bytes(request, settings.max_adapter_bytes, settings.body_seconds)


def _refuse_all_but(request: Request, *accepted: str) -> None:
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type not in accepted:
        raise UnsupportedMedia(f"the body's media type is {media_type or 'not named'}; send it as {accepted[0]}")
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise UnsupportedMedia(f"the body's encoding is {encoding}; send it as it is")


def _parsed(data: bytes, model: type[M]) -> M:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"the body is not UTF-8: byte {error.start} cannot be read") from error
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise BadInput(describe(error)) from error


async def _read_bytes(request: Request, limit: int, seconds: float) -> bytes:
    """The body; no more than `limit` of it is ever held."""
    too_large = TooLarge(f"the body has more than {limit} bytes, the most that is read here")
    try:
        if int(request.headers.get("content-length") or 0) > limit:
            raise too_large
    except ValueError as error:
        raise BadInput("Content-Length is not a number") from error
    data = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                data += chunk
                if len(data) > limit:
                    raise too_large
    except ClientDisconnect as error:
        raise CallerLeft("the caller left before the body was whole") from error
    except TimeoutError as error:
        raise CallerLeft(f"the body was not whole after {seconds:g} s") from error
    return bytes(data)


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI of a body that `read_json` reads. Parts stand where they are used: FastAPI would not define them."""
    schema = model.model_json_schema()
    inlined = _inline(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": bool(schema.get("required")), "content": {JSON: {"schema": inlined}}}}


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
