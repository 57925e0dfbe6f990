"""Each request has an id, and a line in the log that tells how it went and nothing of what was sent."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from service.engine.base_model import BaseModel
from service.serving.runner import Runner
from tests.api.harness import Harness, assert_problem, harness
from tests.api.test_operations import samples
from tests.tiny import make_adapter

JOURNAL = "service.api.journal"
LOG_RECORD = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, JOURNAL)


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Message and fields of each line of the journal."""
    return [
        {"message": record.message} | {name: value for name, value in record.__dict__.items() if name not in LOG_RECORD}
        for record in caplog.records
        if record.name == JOURNAL
    ]


def test_an_answered_request_is_a_line_with_its_task_tokens_and_times(
    service: Harness, tiny_base: BaseModel, caplog: pytest.LogCaptureFixture
) -> None:
    service.upload("mood", make_adapter(tiny_base))
    caplog.clear()
    answer = service.predict("mood", ["good film", "a"])
    [line] = lines(caplog)
    seconds, queue, engine = line.pop("seconds"), line.pop("queue_seconds"), line.pop("engine_seconds")
    assert 0 < queue + engine < seconds
    assert line == {
        "message": "answered",
        "request_id": answer.headers["X-Request-Id"],
        "caller": "-",
        "method": "POST",
        "path": "/predict/mood",
        "status": 200,
        "task": "mood",
        "tokens": answer.json()["usage"]["tokens"],
    }


def test_a_refusal_is_a_line_with_its_code(service: Harness, caplog: pytest.LogCaptureFixture) -> None:
    service.predict("nobody", "good film")
    service.http.get("/nowhere")
    service.http.post("/predict/x", content=b"{}", headers={"Host": "elsewhere.example"})
    assert [(line["message"], line["status"], line["code"]) for line in lines(caplog)] == [
        ("refused", 404, "unknown_task"),
        ("refused", 404, "no_such_path"),
        ("refused", 421, "misdirected"),
    ]
    found = samples(service)
    assert {key[1]: value for key, value in found.items() if key[0] == "rootstock_refusals_total" and value} == {
        "unknown_task": 1,
        "no_such_path": 1,
        "misdirected": 1,
    }


def test_a_failure_that_nobody_foresaw_has_its_line_and_its_id(
    service: Harness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret cause")

    monkeypatch.setattr(Runner, "submit", broken)
    answer = service.predict("embedding", "good film")
    assert_problem(answer, 500, "internal", "its log says why")
    [line] = lines(caplog)
    assert (line["message"], line["status"], line["code"]) == ("failed", 500, "internal")
    [error] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert error.__dict__["request_id"] == line["request_id"] == answer.headers["X-Request-Id"]
    assert samples(service)["rootstock_refusals_total", "internal"] == 1


@pytest.mark.parametrize("given", ["a", "req-7", "0" * 128, "4bf92f35:77.b_c"])
def test_a_callers_id_is_kept(service: Harness, given: str) -> None:
    answer = service.http.get("/tasks", headers={"X-Request-Id": given})
    assert answer.headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é", "a;b", "-", "<script>", "a\tb"])
def test_an_id_that_may_not_stand_in_a_log_is_replaced(service: Harness, given: str) -> None:
    answer = service.http.get("/tasks/nobody", headers={b"X-Request-Id": given.encode()})
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-Id"])
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


def test_two_requests_have_two_ids(service: Harness) -> None:
    assert len({service.http.get("/tasks").headers["X-Request-Id"] for _ in range(50)}) == 50


def test_nothing_that_was_sent_is_in_the_log(
    service: Harness, tiny_base: BaseModel, caplog: pytest.LogCaptureFixture
) -> None:
    service.upload("mood", make_adapter(tiny_base))
    caplog.clear()
    service.predict("mood", "confidential words")
    service.predict("mood", {"text": "confidential"})
    service.http.get("/tasks?word=confidential", headers={"Authorization": "Bearer confidential"})
    assert len(lines(caplog)) == 3
    assert "confidential" not in "".join(str(line) for line in lines(caplog))


def test_a_path_cannot_break_a_line(service: Harness, caplog: pytest.LogCaptureFixture) -> None:
    service.http.get("/x%0aERROR%20service:%20made%20up" + "y" * 1000)
    [line] = lines(caplog)
    assert line["path"].startswith("/x%0AERROR%20service")
    assert len(line["path"]) == 200


def test_probes_are_answered_without_a_line(service: Harness, caplog: pytest.LogCaptureFixture) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"):
        assert "X-Request-Id" in service.http.get(path).headers
    assert lines(caplog) == []


def test_the_line_can_be_left_out(tmp_path: Path, tiny_base: BaseModel, caplog: pytest.LogCaptureFixture) -> None:
    with harness(tmp_path, tiny_base, access_log=False) as service:
        assert service.predict("embedding", "good film").status_code == 200
    assert lines(caplog) == []
