"""Both sides are timed over the same steps and compared round by round."""

import pytest

import training_speed
from service.training.trainer import Progress
from training_speed import OURS, VARIANTS, Clock, summary


def test_the_clock_counts_every_step_and_no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 2.0, 3.0, 10.0, 11.0])  # begun, two steps, seven seconds of measuring, a step
    monkeypatch.setattr(training_speed, "perf_counter", lambda: next(now))
    clock = Clock()
    for step, value in [(1, None), (2, None), (2, 0.9), (3, None)]:
        clock.watch(Progress(1, step, 3, 0.1, value))
    assert clock.seconds == 4


def test_sides_are_summed_up_over_their_rounds() -> None:
    rounds = {
        name: [{"examples_per_second": speed * factor, "accuracy": right} for factor, right in [(1, 0.8), (2, 0.9)]]
        for name, speed in zip((*OURS, *VARIANTS), (60, 40, 20, 30, 10), strict=True)
    }
    found = summary(rounds)
    assert found["median"]["rootstock"] == 90
    assert found["accuracy"]["adapters"] == pytest.approx(0.85)
    assert found["accuracy_deviation"]["adapters"] == pytest.approx(0.0707, abs=1e-4)
    assert found["times_as_fast"] == {
        "rootstock, full fine-tuning": 1.5,
        "adapters": 3,
        "adapters, grouped by length": 2,
        "adapters, grouped by length, bfloat16": 6,
    }
    assert summary({name: runs[:1] for name, runs in rounds.items()})["accuracy_deviation"]["adapters"] is None
