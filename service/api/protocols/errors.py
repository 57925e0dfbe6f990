"""Errors as each protocol has them, told apart by its paths; all other paths answer with problem documents."""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel

ErrorType = Literal["validation", "overloaded", "backend"]


class InferenceError(BaseModel):
    """Of the Open Inference Protocol."""

    error: str


class EmbedError(BaseModel):
    """Of Text Embeddings Inference."""

    error: str
    error_type: ErrorType


class OpenAIErrorBody(BaseModel):
    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None = None
    code: str


class OpenAIError(BaseModel):
    error: OpenAIErrorBody


def _inference(status: int, code: str, detail: str) -> BaseModel:
    return InferenceError(error=detail)


def _embed(status: int, code: str, detail: str) -> BaseModel:
    busy: ErrorType = "overloaded" if status in (429, 503) else "backend"
    return EmbedError(error=detail, error_type="validation" if status < 500 and status != 429 else busy)


def _openai(status: int, code: str, detail: str) -> BaseModel:
    kind = OpenAIErrorBody(message=detail, type="invalid_request_error" if status < 500 else "server_error", code=code)
    return OpenAIError(error=kind)


_SHAPES: dict[str, Callable[[int, str, str], BaseModel]] = {"v2": _inference, "embed": _embed, "v1": _openai}


def shaped(path: str, status: int, code: str, detail: str) -> dict[str, Any] | None:
    """An error's body on a path of a protocol that says how errors look; None on any other path."""
    shape = _SHAPES.get(path.lstrip("/").split("/", 1)[0])
    return shape(status, code, detail).model_dump() if shape is not None else None
