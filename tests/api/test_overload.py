"""Under overload: what is refused, with which code, how early, and who is not."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from service.engine.base_model import BaseModel
from tests.api.gate import Gate, queued, sample, wait_until
from tests.api.harness import JSON, Harness, assert_problem, harness
from tests.tiny import make_adapter

UNREADABLE = b"{"  # 422, of who reads it
ROUTES: dict[str, dict[str, Any]] = {
    "/predict/embedding": {"inputs": "good film"},
    "/predict": {"tasks": ["embedding"], "inputs": "good film"},
    "/v2/models/embedding/infer": {
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["good film"]}]
    },
    "/embed": {"inputs": "good film"},
    "/v1/embeddings": {"model": "embedding", "input": "good film"},
}
every_route = pytest.mark.parametrize("path", ROUTES)


@pytest.fixture
def crowded(tmp_path: Path, tiny_base: BaseModel, gate: Gate, callers: ThreadPoolExecutor) -> Iterator[Harness]:
    """A service whose queue is full to the token."""
    with harness(tmp_path, tiny_base, queue_tokens=80) as service:
        gate.open()
        for task in ("mood", "colour", "spam"):
            service.upload(task, make_adapter(tiny_base))
        gate.close()
        held = [callers.submit(service.answers, "embedding", "x")]
        gate.wait_for_a_batch()
        for number, task in enumerate(("mood", "colour", "spam", "embedding"), start=1):
            held.append(callers.submit(service.answers, task, "x " * 18))
            wait_until(lambda: queued(service) == 20 * number)  # noqa: B023
        yield service
        gate.open()
        assert [len(future.result()) for future in held] == [1] * 5


@every_route
def test_a_full_service_refuses_on_every_route(crowded: Harness, path: str) -> None:
    refused = crowded.http.post(path, json=ROUTES[path])
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert "80 tokens are waiting" in refused.text


@every_route
def test_a_refusal_waits_for_no_thread(crowded: Harness, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hops = []

    async def hop(work: Callable[..., Any], *_: Any, **__: Any) -> Any:
        hops.append(work)
        return work()

    monkeypatch.setattr(anyio.to_thread, "run_sync", hop)
    assert crowded.http.post(path, json=ROUTES[path]).status_code == 503
    assert crowded.http.post("/none").status_code == 404
    assert hops == []


@pytest.mark.parametrize("path", [path for path in ROUTES if path != "/v1/embeddings"])
def test_it_does_not_read_what_it_has_no_room_for(crowded: Harness, path: str) -> None:
    assert crowded.http.post(path, content=UNREADABLE, headers=JSON).status_code == 503


def test_the_refusal_is_counted_under_the_task_if_there_is_one(crowded: Harness) -> None:
    crowded.predict("mood", "good film")
    crowded.predict("nobody", "good film")
    assert sample(crowded, "rootstock_requests_total", task="mood", outcome="overloaded") == 1
    assert sample(crowded, "rootstock_requests_total", task="", outcome="overloaded") == 1


def test_a_task_that_fills_the_queue_is_refused_and_the_others_are_not(
    tmp_path: Path, tiny_base: BaseModel, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    with harness(tmp_path, tiny_base, queue_tokens=100) as service:
        gate.open()
        service.upload("mood", make_adapter(tiny_base))
        gate.close()
        running = callers.submit(service.answers, "embedding", "x")
        gate.wait_for_a_batch()
        hot = []
        while queued(service) < 50:
            before = queued(service)
            hot.append(callers.submit(service.answers, "embedding", "x " * 8))
            wait_until(lambda: queued(service) > before)  # noqa: B023
        assert_problem(service.predict("embedding", "x"), 503, "overloaded", "50 tokens are waiting")
        calm = callers.submit(service.answers, "mood", "good film")
        wait_until(lambda: queued(service) == 54)
        gate.open()
        assert [len(future.result()) for future in (running, calm, *hot)] == [1] * (2 + len(hot))
        assert service.answers("embedding", "x") == running.result()


@pytest.fixture
def rationed(tmp_path: Path, tiny_base: BaseModel) -> Iterator[Harness]:
    """A task that may have so little that a second request is too much for a long time."""
    with harness(tmp_path, tiny_base, quotas="embedding=0.01") as service:
        service.upload("mood", make_adapter(tiny_base))
        assert len(service.answers("embedding", "good film")) == 1
        yield service


@every_route
def test_a_task_over_its_quota_is_refused_with_429(rationed: Harness, path: str) -> None:
    refused = rationed.http.post(path, json=ROUTES[path])
    assert refused.status_code == 429
    assert 300 < int(refused.headers["Retry-After"]) <= 400  # four tokens at a hundredth a second
    assert "task embedding has had its 0.01 tokens a second" in refused.text


def test_over_its_quota_it_is_refused_among_others_too_and_the_others_are_not(rationed: Harness) -> None:
    asked = {"tasks": ["mood", "embedding"], "inputs": "good film"}
    assert_problem(rationed.http.post("/predict", json=asked), 429, "over_quota", "task embedding has had")
    assert len(rationed.answers("mood", "good film")) == 1
    rationed.http.post("/predict/embedding", content=UNREADABLE, headers=JSON)
    assert sample(rationed, "rootstock_requests_total", task="embedding", outcome="over_quota") == 2


def test_a_request_of_several_tasks_counts_for_each_of_them(tmp_path: Path, tiny_base: BaseModel) -> None:
    with harness(tmp_path, tiny_base, quotas="mood=0.01") as service:
        service.upload("mood", make_adapter(tiny_base))
        asked = {"tasks": ["mood", "embedding"], "inputs": "good film"}
        assert service.http.post("/predict", json=asked).status_code == 200
        assert_problem(service.predict("mood", "x"), 429, "over_quota", "task mood has had")
        assert len(service.answers("embedding", "x")) == 1


def test_more_requests_than_may_be_under_way_are_refused_and_health_is_not(
    tmp_path: Path, tiny_base: BaseModel, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    with harness(tmp_path, tiny_base, max_requests=2) as service:
        running = [callers.submit(service.answers, "embedding", "x")]
        gate.wait_for_a_batch()
        running.append(callers.submit(service.answers, "embedding", "x"))
        wait_until(lambda: queued(service) > 0)
        assert_problem(service.http.get("/tasks"), 503, "overloaded", "2 requests are under way, the most at once")
        for path in ("/healthz", "/readyz", "/metrics"):
            assert service.http.get(path).status_code == 200
        gate.open()
        assert [len(future.result()) for future in running] == [1, 1]
        assert service.http.get("/tasks").status_code == 200
