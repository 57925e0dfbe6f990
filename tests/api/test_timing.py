"""A request's time: what it asks for, within what the settings allow; after that, none of its work is done."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from service.engine.base_model import BaseModel
from tests.api.gate import Gate, queued, sample, wait_until
from tests.api.harness import JSON, Harness, assert_problem, harness
from tests.api.test_overload import ROUTES, every_route

LONG = 3600.0  # seconds


@every_route
def test_who_waits_longer_than_its_header_allows_gets_504_and_its_work_is_not_done(
    service: Harness, gate: Gate, callers: ThreadPoolExecutor, path: str
) -> None:
    running = callers.submit(service.answers, "embedding", "good film")
    gate.wait_for_a_batch()
    late = service.http.post(path, json=ROUTES[path], headers={"X-Request-Timeout": "0.05"})
    assert late.status_code == 504
    assert queued(service) == 0
    gate.open()
    assert len(running.result()) == 1
    assert gate.rows == 1
    assert sample(service, "rootstock_requests_total", task="embedding", outcome="deadline_exceeded") == 1
    assert service.answers("embedding", "good film") == running.result()


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("/predict/embedding", {"timeout": 0.05}),
        ("/predict", {"timeout": 0.05}),
        ("/v2/models/embedding/infer", {"timeout": 50_000}),
    ],
)
def test_a_body_may_name_it_too(service: Harness, gate: Gate, path: str, parameters: dict[str, Any]) -> None:
    late = service.http.post(path, json=ROUTES[path] | {"parameters": parameters})
    assert late.status_code == 504
    gate.open()
    assert len(service.answers("embedding", "good film")) == 1


@pytest.mark.parametrize(
    ("header", "parameter", "settings", "seconds"),
    [
        (0.05, LONG, {}, 0.05),
        (LONG, 0.05, {}, 0.05),
        (None, None, {"timeout_seconds": 0.05}, 0.05),
        (LONG, LONG, {"max_timeout_seconds": 0.05}, 0.05),
        (0.05, None, {"timeout_seconds": 0.01}, 0.05),  # it may be longer than what is given unasked
    ],
)
def test_the_shortest_named_counts_within_the_settings(
    tmp_path: Path,
    tiny_base: BaseModel,
    gate: Gate,
    header: float | None,
    parameter: float | None,
    settings: dict[str, Any],
    seconds: float,
) -> None:
    with harness(tmp_path, tiny_base, **settings) as service:
        body = {"inputs": "x", "parameters": {"timeout": parameter}}
        headers = {"X-Request-Timeout": str(header)} if header else {}
        begun = monotonic()
        late = service.http.post("/predict/embedding", json=body, headers=headers)
        assert monotonic() - begun >= seconds
        assert_problem(late, 504, "deadline_exceeded", "")
        gate.open()


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf", "", "1s", "1e999"])
def test_what_is_no_time_is_refused_by_name(service: Harness, value: str) -> None:
    refused = service.http.post("/predict/embedding", json={"inputs": "x"}, headers={"X-Request-Timeout": value})
    assert_problem(refused, 422, "bad_input", "X-Request-Timeout: .* is not a number of seconds above 0")


@pytest.mark.parametrize("value", ["0", "-1", '"5"', "true", "1e999"])
def test_a_parameter_that_is_no_time_is_refused_by_name(service: Harness, value: str) -> None:
    body = f'{{"inputs": "x", "parameters": {{"timeout": {value}}}}}'
    refused = service.http.post("/predict/embedding", content=body, headers=JSON)
    assert_problem(refused, 422, "bad_input", r"parameters\.timeout: ")


def test_enough_time_changes_nothing(service: Harness) -> None:
    answered = service.answers("embedding", "good film")
    assert service.answers("embedding", "good film", timeout=LONG) == answered
    asked = ROUTES["/v2/models/embedding/infer"]
    for timeout in (0, 10**9):  # 0: Triton's clients say so where there is none
        infer = service.http.post("/v2/models/embedding/infer", json=asked | {"parameters": {"timeout": timeout}})
        assert infer.status_code == 200


def test_time_that_is_over_while_it_runs_gives_its_place_in_later_batches_free(
    tmp_path: Path, tiny_base: BaseModel, gate: Gate
) -> None:
    with harness(tmp_path, tiny_base, batch_tokens=4) as service:
        late = service.predict("embedding", ["good film"] * 3, timeout=0.05)
        assert_problem(late, 504, "deadline_exceeded", "")
        wait_until(lambda: queued(service) == 0)
        gate.open()
        assert len(service.answers("embedding", "good film")) == 1
        assert gate.rows <= 2  # one had begun
