"""Quotas: over time no task gets more than its own, and none is refused for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import OverQuota
from service.serving.quotas import BURST_SECONDS, Quotas


def takes(quotas: Quotas, task: str, tokens: int, now: float) -> bool:
    try:
        quotas.check(task, now)
    except OverQuota:
        return False
    quotas.charge(task, tokens, now)
    return True


def test_a_task_without_a_quota_is_never_refused() -> None:
    quotas = Quotas({"spam": 10})
    assert all(takes(quotas, "mood", 10**6, now=0) for _ in range(100))


def test_a_task_that_had_too_much_is_refused_until_it_is_paid_off() -> None:
    quotas = Quotas({"spam": 10})
    assert takes(quotas, "spam", 110, now=100)  # ten of them were saved up
    with pytest.raises(OverQuota, match="task spam has had its 10 tokens a second") as refused:
        quotas.check("spam", now=102)
    assert refused.value.retry_after == pytest.approx(8)
    assert not takes(quotas, "spam", 1, now=109.9)
    assert takes(quotas, "spam", 1, now=110)


@given(
    st.integers(1, 100),
    st.lists(st.tuples(st.integers(1, 500), st.floats(0, 20)), min_size=1, max_size=50),
)
def test_over_time_a_task_gets_its_quota_and_a_request_more_at_most(quota: int, asked: list[tuple[int, float]]) -> None:
    quotas, now, given = Quotas({"spam": quota}), 0.0, 0
    for tokens, pause in asked:
        now += pause
        if takes(quotas, "spam", tokens, now):
            assert given <= quota * (now + BURST_SECONDS) * (1 + 1e-9)
            given += tokens


@given(st.integers(1, 100), st.integers(1, 10**6))
def test_no_size_is_refused_for_ever(quota: int, tokens: int) -> None:
    quotas = Quotas({"spam": quota})
    assert takes(quotas, "spam", tokens, now=0)
    assert takes(quotas, "spam", tokens, now=tokens / quota + 1)
