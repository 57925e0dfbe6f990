"""The calls of a service, written once; `Client` waits for each, `AsyncClient` has it awaited."""

import os
import re
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Generic, Literal, NamedTuple, ParamSpec, Self, TypeVar, cast, overload
from urllib.parse import quote

import httpx2

from service.client.answers import Prediction, Stats, TaskFacts, TaskVersions, VersionFacts
from service.client.batches import MOST_INPUTS, encode, key_of, parted, placed
from service.client.refusals import foreign, refusal
from service.client.retry import BUSY, CUT, UNSENT, Retry, retry_after
from service.client.transport import Awaiting, Blocking, Request, Transport, finish
from service.errors import BadInput, Conflict, RootstockError, ServiceUnreachable, StoreUnreachable, TooLarge

DEFAULT_URL = "http://127.0.0.1:8000"
KEY_VARIABLE = "ROOTSTOCK_KEY"
_RETRY = Retry()

Inputs = str | Mapping[str, str] | Sequence[str | Mapping[str, str]]
P = ParamSpec("P")
T = TypeVar("T")


class Call(Generic[P, T]):
    """A coroutine function as a method: one that returns the result on `Client`, an awaitable on `AsyncClient`."""

    def __init__(self, steps: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> None:
        self._steps = steps
        self.__doc__ = steps.__doc__

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: "Client", owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: "AsyncClient", owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: "Client | AsyncClient | None", owner: type) -> object:
        if client is None:
            return self

        @wraps(self._steps)
        def bound(*arguments: P.args, **named: P.kwargs) -> object:
            steps = self._steps(client, *arguments, **named)
            return finish(steps) if isinstance(client, Client) else steps

        return bound


class _Failure(NamedTuple):
    error: RootstockError
    again: bool  # whether another try may be made, and harms nobody
    asked: float = 0.0  # seconds that the service asks to wait


class _Calls:
    """Raises a service's refusals as the errors that they were there.

    Every call may raise `ServiceUnreachable`: nothing answered, or something that is not a Rootstock. A service that is
    busy, or a connection that is lost, is tried again as `retry` has it; what must not be done twice is so only
    where it was surely not done once.
    """

    def __init__(self, transport: Transport, url: str, retry: Retry) -> None:
        self._transport, self._url, self._retry = transport, url, retry

    @Call
    async def predict(
        self,
        task: str,
        inputs: Inputs,
        *,
        top_k: int | None = None,
        truncate: bool = True,
        version: int | None = None,
        sticky_key: str | None = None,
        timeout: float | None = None,
    ) -> list[Prediction]:
        """One prediction per input, in order.

        Any number of inputs: what exceeds a request goes in several, and one version answers them all.

        Args:
            top_k: labels in a classification's scores at most.
            truncate: cut inputs over the task's length; False: refuse them.
            version: another than the active one.
            sticky_key: a user or a session; while a candidate has a share of the traffic, one version answers it.
            timeout: seconds in which the service is to answer each request; what it has not run by then it never does.

        Raises:
            DeadlineExceeded
        """
        body = {"parameters": {"top_k": top_k, "truncate": truncate, "version": version, "timeout": timeout}}
        answers = await self._in_parts("predictions", f"/predict/{_quoted(task)}", body, inputs, sticky_key)
        return [prediction for answer in answers for prediction in answer["predictions"]]

    @Call
    async def predict_many(
        self,
        tasks: Sequence[str],
        inputs: Inputs,
        *,
        top_k: int | None = None,
        truncate: bool = True,
        sticky_key: str | None = None,
        timeout: float | None = None,
    ) -> dict[str, list[Prediction]]:
        """For each task, one prediction per input; the service reads each text once.

        Raises:
            Conflict: the inputs went in several requests, and a task's version was changed meanwhile.
            DeadlineExceeded: as of `predict`.
        """
        body = {"tasks": list(tasks), "parameters": {"top_k": top_k, "truncate": truncate, "timeout": timeout}}
        parts = await self._in_parts("answers", "/predict", body, inputs, sticky_key, len(tasks))
        found: dict[str, list[Prediction]] = {}
        versions: dict[str, int] = {}
        for answer in (answer for part in parts for answer in part["answers"]):
            task, version = answer["task"], answer["version"]
            if versions.setdefault(task, version) != version:
                raise Conflict(f"task {task} went from version {versions[task]} to {version} while it answered")
            found.setdefault(task, []).extend(answer["predictions"])
        return found

    @Call
    async def push(self, task: str, file: bytes | Path, activate: bool = True) -> VersionFacts:
        """Uploads an adapter file; returns the version it has become, or already is."""
        data = file.read_bytes() if isinstance(file, Path) else file
        query = {"activate": str(activate).lower()}
        upload = Request("PUT", f"/adapters/{_quoted(task)}", data, "application/octet-stream", query)
        return cast(VersionFacts, await self._object("version", upload))

    @Call
    async def activate(self, task: str, version: int) -> VersionFacts:
        """Serves another version, forward or back."""
        body = encode({"version": version})
        # Repeated late, it would undo what somebody else has activated since.
        request = Request("POST", f"/adapters/{_quoted(task)}/activate", body, repeatable=False)
        return cast(VersionFacts, await self._object("version", request))

    @Call
    async def nominate(
        self, task: str, version: int, mode: Literal["shadow", "share"] = "shadow", share: float | None = None
    ) -> TaskVersions:
        """Tries a version beside the active one, or changes how; returns the task's versions.

        Args:
            mode: shadow: the active version answers all; share: the candidate answers its share.
            share: of the requests, 0 to 1: those that both versions run. All by default, for mode shadow.
        """
        body = encode({"version": version, "mode": mode, "share": share})
        request = Request("POST", f"/adapters/{_quoted(task)}/candidate", body, repeatable=False)
        return cast(TaskVersions, await self._object("versions", request))

    @Call
    async def promote(self, task: str) -> VersionFacts:
        """Makes the candidate the active version."""
        request = Request("POST", f"/adapters/{_quoted(task)}/candidate/promote", repeatable=False)
        return cast(VersionFacts, await self._object("version", request))

    @Call
    async def abandon(self, task: str) -> None:
        """Ends a release; the candidate stays as an inactive version."""
        await self._send(Request("DELETE", f"/adapters/{_quoted(task)}/candidate", repeatable=False))

    @Call
    async def retire(self, task: str) -> None:
        """Serves a task no more, and removes its files."""
        await self._send(Request("DELETE", f"/adapters/{_quoted(task)}", repeatable=False))

    @Call
    async def delete(self, task: str, version: int) -> None:
        """Removes a version that is neither active nor the candidate."""
        await self._send(Request("DELETE", f"/adapters/{_quoted(task)}/versions/{version}", repeatable=False))

    @Call
    async def tasks(self) -> list[TaskFacts]:
        """What is served."""
        tasks = await self._json(Request("GET", "/tasks"))
        if not isinstance(tasks, list):
            raise foreign(self._url, "no list of tasks")
        return tasks

    @Call
    async def task(self, task: str) -> TaskFacts:
        """One served task: kind, labels, active version, figure."""
        return cast(TaskFacts, await self._object("version", Request("GET", f"/tasks/{_quoted(task)}")))

    @Call
    async def versions(self, task: str) -> TaskVersions:
        """A task's versions and their state, and what is seen of its candidate."""
        return cast(TaskVersions, await self._object("versions", Request("GET", f"/adapters/{_quoted(task)}")))

    @Call
    async def file(self, task: str, version: int) -> bytes:
        """A version's adapter file."""
        response = await self._send(Request("GET", f"/adapters/{_quoted(task)}/versions/{version}"))
        return response.content

    @Call
    async def stats(self) -> Stats:
        """|w|, Σ|v| and what they come to."""
        return cast(Stats, await self._object("base", Request("GET", "/stats")))

    async def _in_parts(
        self,
        key: str,
        path: str,
        body: dict[str, Any],
        inputs: Inputs,
        sticky_key: str | None,
        tasks: int = 1,
    ) -> list[dict[str, Any]]:
        """The service's answers to the inputs, part by part; all of the version that answers the first."""
        listed = [inputs] if isinstance(inputs, str | Mapping) else inputs
        left = deque(parted(listed, max(1, MOST_INPUTS // max(1, tasks))))
        answers: list[dict[str, Any]] = []
        done = 0
        while left:
            if sticky_key is None and len(left) > 1:
                sticky_key = key_of(listed)
            part = left.popleft()
            headers = _sticky(sticky_key)
            try:
                answer = await self._object(
                    key, Request("POST", path, encode({**body, "inputs": part}), headers=headers)
                )
            except TooLarge:
                if len(part) < 2:
                    raise
                half = len(part) // 2
                left.extendleft((part[half:], part[:half]))
                continue
            except BadInput as error:
                raise BadInput(placed(error.detail, done)) from error
            answers.append(answer)
            done += len(part)
            if "version" in answer:
                body = {**body, "parameters": {**body["parameters"], "version": answer["version"]}}
        return answers

    async def _object(self, key: str, request: Request) -> dict[str, Any]:
        """An answer that has `key`, as all of ours do."""
        answer = await self._json(request)
        if not isinstance(answer, dict) or key not in answer:
            raise foreign(self._url, f"JSON without {key}")
        return answer

    async def _json(self, request: Request) -> Any:
        response = await self._send(request)
        try:
            return response.json()
        except ValueError as error:
            raise foreign(self._url, f"{response.status_code} without JSON") from error

    async def _send(self, request: Request) -> httpx2.Response:
        """A successful answer, if need be after some tries."""
        failures = 0
        while True:
            outcome = await self._try(request)
            if isinstance(outcome, httpx2.Response):
                return outcome
            failures += 1
            pause = self._retry.pause(failures, outcome.asked) if outcome.again else None
            if pause is None:
                raise outcome.error
            await self._transport.sleep(pause)

    async def _try(self, request: Request) -> httpx2.Response | _Failure:
        try:
            response = await self._transport.send(request)
        except httpx2.HTTPError as error:
            lost = ServiceUnreachable(f"no answer from {self._url}: {str(error) or type(error).__name__}")
            lost.__cause__ = error
            return _Failure(lost, isinstance(error, UNSENT) or (request.repeatable and isinstance(error, CUT)))
        if response.is_success:
            return response
        refused = refusal(response, self._url)
        unknown = isinstance(refused, StoreUnreachable)  # whether it was done
        again = response.status_code in BUSY and (request.repeatable or not unknown)
        return _Failure(refused, again, retry_after(response))


class Client(_Calls):
    """Talks to one service; each call waits for its answer.

    Args:
        key: sent as a bearer token; by default what ROOTSTOCK_KEY holds, if anything.
        timeout: seconds that connecting, sending or the next bytes of an answer may take.
    """

    def __init__(
        self, url: str = DEFAULT_URL, key: str | None = None, timeout: float = 60.0, retry: Retry = _RETRY
    ) -> None:
        self._http = httpx2.Client(base_url=_address(url), headers=_authorization(key), timeout=timeout)
        super().__init__(Blocking(self._http), url, retry)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Calls):
    """As `Client`, for an event loop: each call is awaited, and many may be under way at once."""

    def __init__(
        self, url: str = DEFAULT_URL, key: str | None = None, timeout: float = 60.0, retry: Retry = _RETRY
    ) -> None:
        self._http = httpx2.AsyncClient(base_url=_address(url), headers=_authorization(key), timeout=timeout)
        super().__init__(Awaiting(self._http), url, retry)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _address(url: str) -> httpx2.URL:
    try:
        return httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ServiceUnreachable(f"{url} is no address: {error}") from error


def _authorization(key: str | None) -> dict[str, str]:
    key = os.environ.get(KEY_VARIABLE, "") if key is None else key
    if not re.fullmatch("[!-~]*", key):
        raise BadInput("the key has characters that no header can carry")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _sticky(key: str | None) -> dict[str, str]:
    if key is None:
        return {}
    if not re.fullmatch("[ -~]+", key):
        raise BadInput("the sticky key has characters that no header can carry, or none")
    return {"Rootstock-Sticky-Key": key}


def _quoted(task: str) -> str:
    return quote(task, safe="", errors="replace")
