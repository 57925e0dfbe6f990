"""What is counted of two versions side by side: all that happened, and latencies of the last requests."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.trials import WINDOW, Outcome, Trial
from service.metrics import Metrics
from service.registry.release import Candidate, Role

OUTCOMES: list[Outcome] = ["agreed", "differed", "failed", "dropped"]
ROLES: list[Role] = ["active", "candidate"]


def trial(metrics: Metrics | None = None) -> Trial:
    return Trial("mood", 1, Candidate(version=2, mode="shadow", share=1.0), metrics or Metrics())


@given(st.lists(st.tuples(st.sampled_from(OUTCOMES), st.integers(1, 9))))
def test_agreement_is_of_what_was_compared(events: list[tuple[Outcome, int]]) -> None:
    metrics = Metrics()
    seen, right = trial(metrics), Counter[Outcome]()
    for outcome, inputs in events:
        seen.count(outcome, inputs)
        right[outcome] += inputs
    assert seen.inputs == {outcome: right[outcome] for outcome in OUTCOMES}
    assert seen.compared == right["agreed"] + right["differed"]
    assert seen.agreement == (right["agreed"] / seen.compared if seen.compared else None)
    for outcome in right:
        labels = {"task": "mood", "outcome": outcome}
        assert metrics.registry.get_sample_value("rootstock_release_inputs_total", labels) == right[outcome]


@given(st.lists(st.tuples(st.sampled_from(ROLES), st.none() | st.floats(0, 10)), max_size=60))
def test_each_version_has_its_own_requests_failures_and_latencies(events: list[tuple[Role, float | None]]) -> None:
    seen = trial()
    for role, seconds in events:
        seen.fail(role) if seconds is None else seen.took(role, seconds)
    for role in ROLES:
        all_seconds = [seconds for one, seconds in events if one == role]
        answered = [seconds for seconds in all_seconds if seconds is not None]
        assert (seen.seen[role].requests, seen.seen[role].failed) == (
            len(all_seconds),
            len(all_seconds) - len(answered),
        )
        for quantile in (0.5, 0.95):
            expected = float(np.quantile(answered, quantile)) if answered else None
            assert seen.seen[role].latency(quantile) == (None if expected is None else pytest.approx(expected))


def test_latencies_are_of_the_last_requests() -> None:
    seen = trial()
    for seconds in [*[9.0] * WINDOW, *[1.0] * WINDOW]:
        seen.took("active", seconds)
    assert seen.seen["active"].requests == 2 * WINDOW
    assert seen.seen["active"].latency(0.95) == 1.0
