"""What a request's key allows. The guard finds the key; routes say what they need of it."""

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer, SecurityScopes

from service.api.keys import Key, Scope
from service.errors import Forbidden

NOBODY = "-"  # the caller's name where no key is asked for

_bearer = HTTPBearer(scheme_name="key", description="a key made by `rootstock keys add`", auto_error=False)


def needs(*scopes: Scope) -> Any:
    """For a route's `dependencies`: a key that has one of these scopes, or any key where none is named.

    The path's `task` must be among those that the key is limited to. Tasks that a body names are the route's to check,
    by `check_tasks`.

    Raises:
        Forbidden
    """
    return Security(_check, scopes=scopes)


async def _check(request: Request, needed: SecurityScopes, _documented: Annotated[Any, Depends(_bearer)]) -> None:
    key: Key | None = request.state.key
    if key is None:
        return
    if needed.scopes and not any(key.has(scope) for scope in needed.scopes):  # type: ignore[arg-type]  # they are ours
        raise Forbidden(f"key {key.name} has scope {' and '.join(key.scopes)}; this takes {' or '.join(needed.scopes)}")
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
