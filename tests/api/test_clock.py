"""The machine's clock is set hours forward or back while the service works: no duration notices."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, tzinfo
from pathlib import Path

import pytest

from service.engine.base_model import BaseModel
from service.registry import versions
from tests.api.gate import Gate, queued, wait_until
from tests.api.harness import Harness, assert_problem, harness
from tests.registry.disks import open_registry
from tests.tiny import make_adapter

HOURS = 3600.0  # seconds
both_ways = pytest.mark.parametrize("hours", [5, -5], ids=["forward", "back"])

Jump = Callable[[float], None]


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Jump:
    """Sets the wall clock of this process by so many hours."""
    real, real_ns = time.time, time.time_ns

    def jump(hours: float) -> None:
        seconds = hours * HOURS

        class Jumped(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = UTC) -> "Jumped":
                return cls.fromtimestamp(time.time(), tz)

        monkeypatch.setattr(time, "time", lambda: real() + seconds)
        monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(seconds * 1e9))
        monkeypatch.setattr(versions, "datetime", Jumped)

    return jump


@both_ways
def test_who_waits_with_a_deadline_is_answered(
    service: Harness, gate: Gate, callers: ThreadPoolExecutor, jump: Jump, hours: float
) -> None:
    running = callers.submit(service.answers, "embedding", "good film", timeout=30)
    gate.wait_for_a_batch()
    waiting = callers.submit(service.answers, "embedding", "good film", timeout=30)
    wait_until(lambda: queued(service) == 4)
    jump(hours)
    assert service.http.get("/healthz").status_code == 200  # the engine does not seem to stand still
    gate.open()
    assert len(running.result()) == len(waiting.result()) == 1


@both_ways
def test_who_waits_for_longer_than_it_has_is_told_in_time(
    service: Harness, gate: Gate, callers: ThreadPoolExecutor, jump: Jump, hours: float
) -> None:
    waiting = callers.submit(service.predict, "embedding", "good film", timeout=0.3)
    gate.wait_for_a_batch()
    jump(hours)
    assert_problem(waiting.result(10), 504, "deadline_exceeded", "within 0.3 s")
    gate.open()


@both_ways
def test_a_quota_is_not_paid_off_sooner_or_later(
    tmp_path: Path, tiny_base: BaseModel, jump: Jump, hours: float
) -> None:
    with harness(tmp_path, tiny_base, quotas="embedding=0.01") as service:
        assert len(service.answers("embedding", "good film")) == 1
        jump(hours)
        refused = service.predict("embedding", "good film")
        assert_problem(refused, 429, "over_quota", "task embedding has had its 0.01 tokens a second")
        assert 300 < int(refused.headers["Retry-After"]) <= 400  # four tokens at a hundredth a second


@both_ways
def test_a_store_is_changed_and_followed_as_before(
    tmp_path: Path, tiny_base: BaseModel, jump: Jump, hours: float
) -> None:
    with harness(tmp_path, tiny_base, follow_seconds=0.01) as service:
        service.upload("mood", make_adapter(tiny_base, seed=1))
        jump(hours)
        assert service.upload("mood", make_adapter(tiny_base, seed=2)) == 2
        other = open_registry(tiny_base, tmp_path)
        other.upload("mood", make_adapter(tiny_base, seed=3))
        wait_until(lambda: service.predict("mood", "good film").json()["version"] == 3)
        jump(-hours)
        other.activate("mood", 1)
        other.close()
        wait_until(lambda: service.predict("mood", "good film").json()["version"] == 1)
        entries = service.get("/adapters/mood/log")["entries"]
        assert [(entry["did"], entry["version"]) for entry in entries] == [
            ("upload", 1),
            ("upload", 2),
            ("upload", 3),
            ("activate", 1),
        ]
        moments = [datetime.fromisoformat(entry["at"]) for entry in entries]
        assert (moments[1] > moments[0]) == (hours > 0)  # timestamps do jump
