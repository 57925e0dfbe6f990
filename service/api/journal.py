"""What stands around everything: gives each request an id and an account, and writes down how it ended."""

import logging
from time import monotonic
from typing import Any
from urllib.parse import quote

from opentelemetry.trace import format_trace_id, get_current_span
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.access import NOBODY
from service.api.account import REQUEST_ID, Account, open_account
from service.api.guard import PROBES
from service.api.services import Services

log = logging.getLogger(__name__)

MAX_PATH = 200  # characters of a path in the log


class Journal:
    """ASGI middleware. Puts `account` into the request's state."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._metrics = services.metrics
        self._access_log = services.settings.access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        account = open_account(scope)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                account.status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = account.id
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except Exception:  # answered further out, by `problems`
            account.status, account.code = 500, "internal"
            raise
        finally:
            if account.code:
                self._metrics.refusals.labels(account.code).inc()
            if self._access_log and scope["path"] not in PROBES:
                _write(scope, account)


def _write(scope: Scope, account: Account) -> None:
    """One line: who asked for what, and how it went. Never what was sent or answered, nor the query of a path."""
    fields: dict[str, Any] = {
        "request_id": account.id,
        "caller": scope["state"].get("caller", NOBODY),
        "method": scope["method"],
        "path": quote(scope["path"])[:MAX_PATH],  # encoded, so it cannot break the line
        "status": account.status,
        "seconds": round(monotonic() - account.started, 6),
    }
    if account.code:
        fields["code"] = account.code
    if account.tasks:
        fields["task"] = ",".join(account.tasks)
    if account.usage:
        fields |= {
            "tokens": account.tokens,
            "queue_seconds": round(account.course.queue_seconds, 6),
            "engine_seconds": round(account.course.engine_seconds, 6),
        }
    span = get_current_span().get_span_context()
    if span.is_valid:
        fields["trace_id"] = format_trace_id(span.trace_id)
    log.info(_outcome(account.status), extra=fields)


def _outcome(status: int) -> str:
    if not status:
        return "cut off"  # before an answer began
    return "answered" if status < 400 else "refused" if status < 500 else "failed"
