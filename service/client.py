"""The service's client: what the command line and the benchmarks use."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from service.errors import (
    BadAdapter,
    BadInput,
    Conflict,
    EngineFault,
    Overloaded,
    RootstockError,
    ServiceUnreachable,
    Stopping,
    TooLarge,
    UnknownTask,
    UnknownVersion,
    UnsupportedMedia,
)

DEFAULT_URL = "http://127.0.0.1:8000"
ERRORS: dict[str, type[RootstockError]] = {
    error.code: error
    for error in (
        BadAdapter,
        BadInput,
        Conflict,
        EngineFault,
        Overloaded,
        Stopping,
        TooLarge,
        UnknownTask,
        UnknownVersion,
        UnsupportedMedia,
    )
}


class Client:
    """Talks to one service; raises its refusals as the errors they were there.

    Every call may raise `ServiceUnreachable`: nothing answered, or something that is not a Rootstock.
    """

    def __init__(self, url: str = DEFAULT_URL, timeout: float = 60.0) -> None:
        self._http = httpx2.Client(base_url=url, timeout=timeout)
        self._url = url

    def predict(
        self, task: str, inputs: str | Mapping[str, str] | Sequence[str | Mapping[str, str]], **parameters: Any
    ) -> list[dict[str, Any]]:
        """One prediction per input; `parameters` as the API has them: top_k, truncate, version."""
        body = {"inputs": inputs, "parameters": parameters}
        predictions: list[dict[str, Any]] = self._json("POST", f"/predict/{task}", json=body)["predictions"]
        return predictions

    def push(self, task: str, file: bytes | Path, activate: bool = True) -> dict[str, Any]:
        """Uploads an adapter file; returns the version it has become, or already is."""
        data = file.read_bytes() if isinstance(file, Path) else file
        answer: dict[str, Any] = self._json(
            "PUT",
            f"/adapters/{task}",
            content=data,
            params={"activate": str(activate).lower()},
            headers={"Content-Type": "application/octet-stream"},
        )
        return answer

    def tasks(self) -> list[dict[str, Any]]:
        """What is served."""
        tasks: list[dict[str, Any]] = self._json("GET", "/tasks")
        return tasks

    def stats(self) -> dict[str, Any]:
        """|w|, Σ|v| and what they come to."""
        stats: dict[str, Any] = self._json("GET", "/stats")
        return stats

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _json(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            response = self._http.request(method, path, **arguments)
            answer = response.json()
        except httpx2.HTTPError as error:
            raise ServiceUnreachable(f"no answer from {self._url}: {error}") from error
        except ValueError as error:
            raise ServiceUnreachable(f"{self._url} answered {response.status_code} without JSON") from error
        if response.is_success:
            return answer
        detail, code = str(answer.get("detail", answer)), str(answer.get("code"))
        raise ERRORS.get(code, RootstockError)(detail)
