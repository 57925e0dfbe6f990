"""Errors as RFC 9457 problem documents: the one place that turns our errors, and the framework's, into HTTP."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException

from service.api.protocols.errors import shaped
from service.api.schemas import Problem
from service.errors import Overloaded, RootstockError, Unauthenticated

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
MAX_DETAIL = 1000  # characters; a detail may quote what was sent
# For browsers: what comes from here is shown as what it says it is, in no frame, runs nothing, and is kept by nobody.
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
RAW_SECURITY_HEADERS = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


def install(app: FastAPI) -> None:
    app.add_exception_handler(RootstockError, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(Exception, _unforeseen)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for problems of these statuses."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in sorted(statuses)}


def problem(status: int, code: str, title: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    content = {
        "type": f"urn:rootstock:problem:{code}",
        "title": title,
        "status": status,
        "detail": _cut(detail),
        "code": code,
    }
    return JSONResponse(content, status, headers, MEDIA_TYPE)


def refusal(path: str, error: RootstockError) -> JSONResponse:
    """An error of ours in the form that this path answers with."""
    headers = None
    if isinstance(error, Overloaded):
        headers = {"Retry-After": str(max(1, round(error.retry_after)))}
    elif isinstance(error, Unauthenticated):
        headers = {"WWW-Authenticate": "Bearer"}
    return _formed(path, error.status, error.code, error.title, error.detail, headers)


def secure(headers: MutableHeaders) -> None:
    """Adds the security headers that an answer does not set itself."""
    known = {name for name, _ in headers.raw}
    headers.raw.extend(header for header in RAW_SECURITY_HEADERS if header[0] not in known)


def _formed(
    path: str, status: int, code: str, title: str, detail: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """A problem document, or on the paths of another protocol an error as that has it."""
    content = shaped(path, status, code, _cut(detail))
    if content is None:
        return problem(status, code, title, detail, headers)
    return JSONResponse(content, status, headers)


def _cut(detail: str) -> str:
    return detail if len(detail) <= MAX_DETAIL else detail[: MAX_DETAIL - 1] + "…"


def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RootstockError)
    if error.status >= 500 and not isinstance(error, Overloaded):
        log.error("%s %s: %s", request.method, request.url.path, error.detail)
    return refusal(request.url.path, error)


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "no_such_path", 405: "method_not_allowed"}
    detail = f"{request.method} {request.url.path}: {error.detail}"
    headers = dict(error.headers) if error.headers else None
    return _formed(
        request.url.path,
        error.status_code,
        codes.get(error.status_code, "http_error"),
        str(error.detail),
        detail,
        headers,
    )


def _validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = " ".join(str(part) for part in first["loc"])
    return _formed(request.url.path, 422, "bad_input", "The request cannot be read", f"{place}: {first['msg']}")


def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    answer = _formed(
        request.url.path, 500, "internal", "Internal error", "the service failed on this request; its log says why"
    )
    secure(answer.headers)  # it passes the guard by
    return answer
