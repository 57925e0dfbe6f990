"""Request bodies: bounded while they arrive, and checked in one pass."""

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

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
    """The body; no more than `limit` of it is ever held."""
    too_large = TooLarge(f"the body has more than {limit} bytes, the most that is read here")
    if int(request.headers.get("content-length") or 0) > limit:
        raise too_large
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            raise too_large
    return bytes(data)


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI of a body that `read_json` reads."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe(error: ValidationError) -> str:
    """The first thing that is wrong, with its place in the body."""
    first = error.errors(include_url=False)[0]
    # Tags of the input's form are our words, not the caller's.
    place = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}"
        for part in first["loc"]
        if part not in ("one", "many", "text", "object") or part == first["loc"][-1]
    )
    return f"{place.lstrip('.') + ': ' if place else ''}{first['msg']}"


def _expect(request: Request, media: str) -> None:
    """An absent media type is taken on trust; a wrong one is refused."""
    sent = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if sent and sent != media:
        raise UnsupportedMedia(f"the body's media type is {sent}; send it with Content-Type: {media}")
