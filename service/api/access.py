"""What a request's key allows. The guard finds the key; routes say what they need of it."""

from collections.abc import Iterable
from typing import Any

from fastapi import Request, Security
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase

from service.api.keys import Key, Scope
from service.errors import Forbidden

NOBODY = "-"  # the caller's name where no key is asked for


def needs(*scopes: Scope) -> Any:
    """For a route's `dependencies`: a key that has one of these scopes, or any key where none is named.

    The path's `task` must be among those that the key is limited to. Tasks that a body names are the route's to check,
    by `check_tasks`.

    Raises:
        Forbidden
    """
    return Security(_Needed(scopes), scopes=scopes)


class _Needed(SecurityBase):
    """Checks a request, and says in the OpenAPI document what it takes."""

    model = HTTPBearer(description="a key made by `rootstock keys add`")
    scheme_name = "key"

    def __init__(self, scopes: tuple[Scope, ...]) -> None:
        self._scopes = scopes

    async def __call__(self, request: Request) -> None:
        key: Key | None = request.state.key
        if key is None:
            return
        if self._scopes and not any(map(key.has, self._scopes)):
            has, takes = " and ".join(key.scopes), " or ".join(self._scopes)
            raise Forbidden(f"key {key.name} has scope {has}; this takes {takes}")
        if task := request.path_params.get("task"):
            check_tasks(request, [task])


def check_tasks(request: Request, tasks: Iterable[str]) -> None:
    """
    Raises:
        Forbidden: the caller's key is limited to other tasks. Says the same of tasks that are not there.
    """
    for task in tasks:
        if not reaches(request, task):
            raise Forbidden(f"key {request.state.caller} is limited to other tasks than {task!r}")


def reaches(request: Request, task: str) -> bool:
    key: Key | None = request.state.key
    return key is None or key.reaches(task)
