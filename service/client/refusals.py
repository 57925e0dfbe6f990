"""A problem document becomes the error that it was in the service."""

from collections.abc import Iterator

import httpx2

from service.client.retry import retry_after
from service.errors import BadAdapter, RootstockError, ServiceUnreachable


def _tree(error: type[RootstockError]) -> Iterator[type[RootstockError]]:
    yield error
    for kind in error.__subclasses__():
        yield from _tree(kind)


STANDARD = ("type", "title", "status", "detail", "code", "request_id")  # what each problem document has
ERRORS = {error.code: error for error in _tree(RootstockError)}


def refusal(response: httpx2.Response, url: str) -> RootstockError:
    """What an answer that is no success says; `ServiceUnreachable` where it is not one of ours."""
    try:
        problem = response.json()
    except ValueError:
        return foreign(url, f"{response.status_code} without JSON")
    if not isinstance(problem, dict) or "code" not in problem:
        return foreign(url, f"{response.status_code} without a code")
    error = ERRORS.get(str(problem["code"]), RootstockError)(str(problem.get("detail", problem)))
    if isinstance(error, BadAdapter):
        error.facts = {name: fact for name, fact in problem.items() if name not in STANDARD}
    if error.retry_after is not None:
        error.retry_after = retry_after(response) or error.retry_after
    return error


def foreign(url: str, what: str) -> ServiceUnreachable:
    return ServiceUnreachable(f"{url} answered {what}; that is no Rootstock")
