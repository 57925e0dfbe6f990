"""A whole service on the tiny base, spoken to without a socket."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from httpx2 import Response
from starlette.testclient import TestClient

from service.api.app import create_app
from service.api.services import Services
from service.engine.base_model import BaseModel
from service.settings import Settings

BINARY = {"Content-Type": "application/octet-stream"}
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Harness:
    http: TestClient
    store: Path
    services: Services

    def predict(self, task: str, inputs: Any, **parameters: Any) -> Response:
        return self.http.post(f"/predict/{task}", json={"inputs": inputs, "parameters": parameters})

    def answers(self, task: str, inputs: Any, **parameters: Any) -> list[Any]:
        """The predictions, of a request that must be answered."""
        response = self.predict(task, inputs, **parameters)
        assert response.status_code == 200, response.text
        predictions: list[Any] = response.json()["predictions"]
        return predictions

    def put(self, task: str, data: bytes, activate: bool = True) -> Response:
        return self.http.put(
            f"/adapters/{task}", content=data, headers=BINARY, params={"activate": str(activate).lower()}
        )

    def upload(self, task: str, data: bytes, activate: bool = True) -> int:
        """The version, of an upload that must be taken."""
        response = self.put(task, data, activate)
        assert response.status_code == 201, response.text
        version: int = response.json()["version"]
        return version

    def get(self, path: str) -> Any:
        response = self.http.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    def tasks(self) -> dict[str, Any]:
        return {task["task"]: task for task in self.get("/tasks")}

    def state(self) -> dict[str, Any]:
        """All that a refused request must leave as it was: files, tasks, versions, and what is answered."""
        served = self.tasks()
        return {
            "files": {path.name: path.read_bytes() for path in self.store.iterdir()},
            "tasks": served,
            "versions": {task: self.get(f"/adapters/{task}") for task in served if task != "embedding"},
            "answers": {task: self.answers(task, formed(facts, "the film was good")) for task, facts in served.items()},
        }


def formed(facts: dict[str, Any], text: str) -> Any:
    """An input as a task reads it; `facts` as GET /tasks has them."""
    if facts["kind"] == "answer":
        return {"question": "this is", "context": text}
    return {"text": text, "text_pair": "not bad"} if facts["pair"] else text


@contextmanager
def harness(store: Path, base: BaseModel, **settings: Any) -> Iterator[Harness]:
    threads = torch.get_num_threads()
    # One thread: a second has nothing to win on so small a base, and waits long where others are at work.
    app = create_app(Settings(store=store, **{"threads": 1, **settings}), base)
    try:
        with TestClient(app, "http://localhost", raise_server_exceptions=False) as http:
            yield Harness(http, store, app.state.services)
    finally:
        torch.set_num_threads(threads)


def assert_problem(response: Response, status: int, code: str, cause: str) -> None:
    """A problem document that names its cause; `cause` is a pattern found in the detail."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    members = {"type", "title", "status", "detail", "code", "request_id"}
    facts = {"step", "tensor", "example", "expected", "got"} if code == "bad_adapter" else set()
    assert members <= set(problem) <= members | facts
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["type"] == f"urn:rootstock:problem:{code}"
    assert problem["title"]
    assert problem["request_id"] == response.headers["X-Request-Id"]
    assert re.search(cause, problem["detail"]), problem["detail"]
