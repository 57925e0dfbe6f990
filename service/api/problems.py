"""Errors as RFC 9457 problem documents: the one place that turns our errors, and the framework's, into HTTP."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from math import ceil
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route, Router
from starlette.types import Scope

from service.api.account import REQUEST_ID, Account, account_of
from service.api.protocols.errors import shaped
from service.api.schemas import Problem
from service.errors import BadAdapter, DeadlineExceeded, Overloaded, RootstockError, Unauthenticated

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
MAX_DETAIL, MAX_FACT = 1000, 200  # characters; they may quote what was sent
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
    # Coroutines: functions would be run in threads, and a refusal would wait for one when the processors are taken.
    app.add_exception_handler(RootstockError, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(Exception, _unforeseen)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for problems of these statuses."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in sorted(statuses)}


def problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    headers: dict[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> JSONResponse:
    content: dict[str, Any] = {
        "type": f"urn:rootstock:problem:{code}",
        "title": title,
        "status": status,
        "detail": _cut(detail, MAX_DETAIL),
        "code": code,
    }
    for name, fact in (facts or {}).items():
        content[name] = _cut(fact, MAX_FACT) if isinstance(fact, str) else fact
    return JSONResponse(content, status, headers, MEDIA_TYPE)


def refusal(scope: Scope, error: RootstockError) -> JSONResponse:
    """An error of ours in the form that the request's path answers with."""
    headers = None
    if error.retry_after is not None:
        headers = {"Retry-After": str(max(1, ceil(error.retry_after)))}
    elif isinstance(error, Unauthenticated):
        headers = {"WWW-Authenticate": "Bearer"}
    facts = error.facts if isinstance(error, BadAdapter) else None
    return formed(scope, error.status, error.code, error.title, error.detail, headers, facts)


def secure(headers: MutableHeaders) -> None:
    """Adds the security headers that an answer does not set itself."""
    known = {name for name, _ in headers.raw}
    headers.raw.extend(header for header in RAW_SECURITY_HEADERS if header[0] not in known)


def formed(
    scope: Scope,
    status: int,
    code: str,
    title: str,
    detail: str,
    headers: dict[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> JSONResponse:
    """A problem document, or on the paths of another protocol an error as that has it. The account knows of it too."""
    account: Account = scope["state"]["account"]
    account.code = code
    content = shaped(scope["path"], status, code, _cut(detail, MAX_DETAIL))
    if content is None:
        return problem(status, code, title, detail, headers, {**(facts or {}), "request_id": account.id})
    return JSONResponse(content, status, headers)


def _cut(text: str, most: int) -> str:
    """Such as can be sent: not too long, and in UTF-8 even where a file's JSON holds half a character."""
    text = text[:most].encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) < most else text[: most - 1] + "…"


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RootstockError)
    if error.status >= 500 and not isinstance(error, Overloaded | DeadlineExceeded):
        log.error("%s", error.detail, extra={"request_id": account_of(request).id})
    return refusal(request.scope, error)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "no_such_path", 405: "method_not_allowed"}
    detail = f"{request.method} {request.url.path}: {error.detail}"
    headers = dict(error.headers or {})
    if error.status_code == 405:  # the framework names those of one route
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    return formed(
        request.scope,
        error.status_code,
        codes.get(error.status_code, "http_error"),
        str(error.detail),
        detail,
        headers,
    )


def _methods(request: Request) -> set[str]:
    """Those that the path takes."""
    # Routers that were included are routes that hold others.
    parts = (getattr(route, "original_router", None) or Router([route]) for route in request.app.routes)
    routes = (route for part in parts for route in part.routes if route.matches(request.scope)[0] is not Match.NONE)
    return {method for route in routes if isinstance(route, Route) for method in route.methods or ()}


async def _validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = " ".join(str(part) for part in first["loc"])
    return formed(request.scope, 422, "bad_input", "The request cannot be read", f"{place}: {first['msg']}")


async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    account = account_of(request)
    log.error("an error that nobody foresaw", exc_info=error, extra={"request_id": account.id})
    answer = formed(
        request.scope, 500, "internal", "Internal error", "the service failed on this request; its log says why"
    )
    secure(answer.headers)  # it passes the guard by, and the journal
    answer.headers[REQUEST_ID] = account.id
    return answer
