"""What stands before every route: who may ask, by which name, and with which headers it is answered."""

import re
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import problems
from service.api.access import NOBODY
from service.api.keys import Key
from service.api.services import Services
from service.errors import CrossOrigin, Misdirected, Overloaded, RootstockError, Stopping, Unauthenticated
from service.settings import listed

OPEN = {"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"}  # without a key
PROBES = {
    "/healthz",
    "/readyz",
    "/v2/health/live",
    "/v2/health/ready",
    "/metrics",
}  # answered also while it stops, or is full
HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[^\s\[\]@:/]+)(:\d+)?")


class Guard:
    """ASGI middleware. Puts `caller`, a key's name, and `key` into the request's state; "-" and None without keys."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._lifecycle = services.lifecycle
        self._most = services.settings.max_requests
        self._keyring = services.keyring
        self._open = OPEN | ({"/metrics"} if services.settings.metrics_open else set())
        self._names = {"localhost", services.settings.host, *listed(services.settings.hosts.lower())}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                problems.secure(headers)
                if self._lifecycle.stopping:
                    headers["Connection"] = "close"
            await send(message)

        with self._lifecycle.request():
            try:
                self._admit(scope)
            except RootstockError as error:
                await problems.refusal(scope, error)(scope, receive, send_headed)
            else:
                await self._app(scope, receive, send_headed)

    def _admit(self, scope: Scope) -> None:
        """
        Raises:
            Stopping, Overloaded, Misdirected, CrossOrigin, Unauthenticated
        """
        path, headers = scope["path"], Headers(scope=scope)
        if path not in PROBES:
            if self._lifecycle.stopping:
                raise Stopping("the service is stopping and takes no new work")
            if self._lifecycle.requests > self._most:
                raise Overloaded(f"{self._most} requests are under way, the most at once")
        self._check_host(headers)
        _check_origin(headers)
        key = self._key(headers) if self._keyring and path not in self._open else None
        scope["state"].update(key=key, caller=key.name if key else NOBODY)

    def _check_host(self, headers: Headers) -> None:
        """A page can have its own name lead to this machine, but never an address, nor localhost."""
        host = headers.get("host")
        if host is None or "*" in self._names:  # no browser leaves it out
            return
        found = HOST.fullmatch(host)
        name = found["name"].lower() if found else None
        if name is None or not (name in self._names or _is_address(name.strip("[]"))):
            raise Misdirected(f"this service is not known as {host!r}; the setting hosts takes the names that it has")

    def _key(self, headers: Headers) -> Key:
        assert self._keyring is not None
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("this needs a key, sent as Authorization: Bearer")
        key = self._keyring.table.find(secret.strip())
        if key is None:
            raise Unauthenticated("the key is not known here")
        return key


def _check_origin(headers: Headers) -> None:
    """Browsers name the page that asks; it must be one of ours."""
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower():
        raise CrossOrigin(f"the page that asks is of {origin!r}, which is not this service")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
