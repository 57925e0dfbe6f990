"""The service's client: what the command line and the benchmarks use."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx2

from service.errors import (
    BadAdapter,
    BadInput,
    BadStore,
    CallerLeft,
    Conflict,
    CrossOrigin,
    EngineFault,
    Forbidden,
    Misdirected,
    Overloaded,
    RootstockError,
    ServiceUnreachable,
    Starting,
    Stopping,
    TooLarge,
    Unauthenticated,
    UnknownTask,
    UnknownVersion,
    UnsupportedMedia,
)

DEFAULT_URL = "http://127.0.0.1:8000"
KEY_VARIABLE = "ROOTSTOCK_API_KEY"
ERRORS: dict[str, type[RootstockError]] = {
    error.code: error
    for error in (
        BadAdapter,
        BadInput,
        BadStore,
        CallerLeft,
        Conflict,
        CrossOrigin,
        EngineFault,
        Forbidden,
        Misdirected,
        Overloaded,
        Starting,
        Stopping,
        TooLarge,
        Unauthenticated,
        UnknownTask,
        UnknownVersion,
        UnsupportedMedia,
    )
}


class Client:
    """Talks to one service; raises its refusals as the errors they were there.

    Every call may raise `ServiceUnreachable`: nothing answered, or something that is not a Rootstock.
    """

    def __init__(self, url: str = DEFAULT_URL, timeout: float = 60.0, key: str | None = None) -> None:
        """
        Args:
            timeout: seconds.
            key: the service's API key, where it asks for one. Default: the environment's ROOTSTOCK_API_KEY.
        """
        key = key or os.environ.get(KEY_VARIABLE)
        if key and not (key.isascii() and key.isprintable()):
            raise Unauthenticated(f"the key, which {KEY_VARIABLE} holds, is none: it has signs that no key has")
        headers = {"Authorization": f"Bearer {key}"} if key else None
        try:
            self._http = httpx2.Client(base_url=url, timeout=timeout, headers=headers)
        except httpx2.InvalidURL as error:
            raise ServiceUnreachable(f"{url} is no address: {error}") from error
        self._url = url

    def predict(
        self, task: str, inputs: str | Mapping[str, str] | Sequence[str | Mapping[str, str]], **parameters: Any
    ) -> list[dict[str, Any]]:
        """One prediction per input; `parameters` as the API has them: top_k, truncate, version."""
        body = {"inputs": inputs, "parameters": parameters}
        answer = self._object("predictions", "POST", f"/predict/{_quoted(task)}", json=body)
        predictions: list[dict[str, Any]] = answer["predictions"]
        return predictions

    def predict_many(
        self,
        tasks: Sequence[str],
        inputs: str | Mapping[str, str] | Sequence[str | Mapping[str, str]],
        **parameters: Any,
    ) -> dict[str, list[dict[str, Any]]]:
        """For each task, one prediction per input; the service reads each text once."""
        body = {"tasks": list(tasks), "inputs": inputs, "parameters": parameters}
        answers = self._object("answers", "POST", "/predict", json=body)["answers"]
        return {answer["task"]: answer["predictions"] for answer in answers}

    def push(self, task: str, file: bytes | Path, activate: bool = True) -> dict[str, Any]:
        """Uploads an adapter file; returns the version it has become, or already is."""
        data = file.read_bytes() if isinstance(file, Path) else file
        return self._object(
            "version",
            "PUT",
            f"/adapters/{_quoted(task)}",
            content=data,
            params={"activate": str(activate).lower()},
            headers={"Content-Type": "application/octet-stream"},
        )

    def tasks(self) -> list[dict[str, Any]]:
        """What is served."""
        tasks = self._json("GET", "/tasks")
        if not isinstance(tasks, list):
            raise self._foreign("no list of tasks")
        return tasks

    def task(self, task: str) -> dict[str, Any]:
        """One served task: kind, labels, active version, figure."""
        return self._object("version", "GET", f"/tasks/{_quoted(task)}")

    def file(self, task: str, version: int) -> bytes:
        """A version's adapter file."""
        response = self._send("GET", f"/adapters/{_quoted(task)}/versions/{version}")
        return response.content

    def stats(self) -> dict[str, Any]:
        """|w|, Σ|v| and what they come to."""
        return self._object("base", "GET", "/stats")

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _object(self, key: str, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        """An answer that has `key`, as all of ours do."""
        answer = self._json(method, path, **arguments)
        if not isinstance(answer, dict) or key not in answer:
            raise self._foreign(f"JSON without {key}")
        return answer

    def _json(self, method: str, path: str, **arguments: Any) -> Any:
        response = self._send(method, path, **arguments)
        try:
            return response.json()
        except ValueError as error:
            raise self._foreign(f"{response.status_code} without JSON") from error

    def _send(self, method: str, path: str, **arguments: Any) -> httpx2.Response:
        """A successful answer; a refusal is raised as the error that it was there."""
        try:
            response = self._http.request(method, path, **arguments)
        except httpx2.HTTPError as error:
            raise ServiceUnreachable(f"no answer from {self._url}: {error}") from error
        except ValueError as error:  # a lone surrogate, a number that is none
            raise BadInput(f"this cannot be sent as JSON: {error}") from error
        if response.is_success:
            return response
        try:
            answer = response.json()
        except ValueError as error:
            raise self._foreign(f"{response.status_code} without JSON") from error
        if not isinstance(answer, dict) or "code" not in answer:
            raise self._foreign(f"{response.status_code} without a code")
        refusal = ERRORS.get(str(answer["code"]), RootstockError)(str(answer.get("detail", answer)))
        retry_after = response.headers.get("Retry-After", "")
        if isinstance(refusal, Overloaded) and retry_after.isdecimal():
            refusal.retry_after = float(retry_after)
        raise refusal

    def _foreign(self, what: str) -> ServiceUnreachable:
        return ServiceUnreachable(f"{self._url} answered {what}; that is no Rootstock")


def _quoted(task: str) -> str:
    return quote(task, safe="", errors="replace")
