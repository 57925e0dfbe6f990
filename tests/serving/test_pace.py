"""Limits in time become limits in tokens, at the rate that was measured."""

from math import inf

import pytest

from service.serving.pace import BATCHES, CALM_SECONDS, SMALLEST, Limits, Pace

LIMITS = Limits(batch_tokens=2000, batch_seconds=0.1, queue_tokens=100_000, queue_seconds=2.0, short_queue_seconds=0.5)


def paced(rate: float, limits: Limits = LIMITS) -> Pace:
    """Having run batches at so many tokens a second."""
    pace = Pace(limits)
    for _ in range(BATCHES):
        pace.ran(pace.batch_tokens, pace.batch_tokens / rate, full=True)
    return pace


def test_before_anything_has_run_the_tokens_of_the_settings_count() -> None:
    pace = Pace(LIMITS)
    assert (pace.batch_tokens, pace.queue_tokens(now=0), pace.seconds(1000)) == (2000, 100_000, 0)


def test_batches_and_the_queue_take_the_time_that_the_settings_say() -> None:
    pace = paced(10_000)
    assert pace.batch_tokens == 1000
    assert pace.queue_tokens(now=0) == 20_000
    assert pace.seconds(5000) == 0.5


def test_a_fast_engine_is_held_to_the_tokens_of_the_settings() -> None:
    pace = paced(10_000_000)
    assert (pace.batch_tokens, pace.queue_tokens(now=0)) == (2000, 100_000)


def test_a_slow_engine_gets_no_tiny_batches_and_two_of_them_may_wait() -> None:
    pace = paced(10)
    assert (pace.batch_tokens, pace.queue_tokens(now=0)) == (SMALLEST, 2 * SMALLEST)


def test_while_there_are_refusals_the_queue_is_short() -> None:
    pace = paced(10_000)
    pace.refused(now=5)
    assert (pace.queue_tokens(now=5), pace.promised(now=5)) == (5000, 5000)
    pace.refused(now=5.9)
    assert pace.queue_tokens(now=5.8 + CALM_SECONDS) == 5000
    assert (pace.queue_tokens(now=5.9 + CALM_SECONDS), pace.promised(now=5.9 + CALM_SECONDS)) == (20_000, inf)


def test_while_there_are_refusals_batches_are_half_as_large() -> None:
    pace = paced(10_000)
    assert pace.budget(now=10.0) == pace.batch_tokens == 1000
    pace.refused(now=10.0)
    assert (pace.budget(now=10.9), pace.batch_tokens) == (500, 1000)
    assert pace.budget(now=11.1) == 1000
    slow = paced(700)
    slow.refused(now=10.0)
    assert slow.budget(now=10.5) == SMALLEST
    assert paced(10, Limits(batch_tokens=8)).budget(now=0) == 8


def test_who_asks_for_no_more_than_its_share_is_not_held_to_the_short_queue() -> None:
    pace = paced(10_000)
    pace.refused(now=5)
    assert pace.queue_tokens(now=5, within_share=True) == 20_000


def test_small_batches_say_nothing_of_the_rate() -> None:
    pace = paced(10_000)
    for _ in range(1000):
        pace.ran(20, 0.1, full=False)
    assert pace.seconds(10_000) == 1


def test_batches_do_not_become_smaller_for_not_being_full() -> None:
    def seconds(tokens: int) -> float:
        return 0.04 + tokens / 10_000  # some time for each batch, however small it is

    pace = Pace(LIMITS)
    for _ in range(10 * BATCHES):
        pace.ran(pace.batch_tokens, seconds(pace.batch_tokens), full=True)
    budget = pace.batch_tokens
    assert seconds(budget) == pytest.approx(LIMITS.batch_seconds, rel=0.01)
    half = budget // 2 + 1
    for _ in range(10 * BATCHES):
        pace.ran(half, seconds(half), full=False)
    assert pace.batch_tokens == budget
    assert pace.seconds(half) == pytest.approx(seconds(half))


def test_until_a_batch_was_full_others_tell_how_large_one_may_be() -> None:
    pace = Pace(LIMITS)
    pace.ran(1500, 1.5, full=False)
    assert pace.batch_tokens == 100
    pace.ran(20, 0.01, full=True)  # a larger row waited, but it was small
    assert pace.batch_tokens == 100
    pace.ran(90, 0.06, full=True)
    assert pace.batch_tokens == 150


def test_a_machine_that_has_slowed_down_is_noticed_where_no_batch_is_full() -> None:
    pace = paced(10_000)
    for _ in range(BATCHES):
        pace.ran(600, 0.6, full=False)
    assert pace.seconds(1000) == 1
    assert pace.batch_tokens == 200


def test_a_moment_in_which_the_machine_stood_still_is_no_new_rate() -> None:
    pace = paced(10_000)
    pace.ran(1000, 60.0, full=True)
    assert pace.seconds(10_000) == 1


def test_a_machine_that_has_slowed_down_is_noticed() -> None:
    pace = paced(10_000)
    for _ in range(BATCHES):
        pace.ran(pace.batch_tokens, pace.batch_tokens / 5000, full=True)
    assert pace.seconds(10_000) == 2
    assert pace.batch_tokens == 500


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_a_clock_that_stands_or_jumps_back_teaches_nothing(seconds: float) -> None:
    pace = Pace(LIMITS)
    pace.ran(2000, seconds, full=True)
    assert pace.seconds(1000) == 0


def test_limits_in_tokens_alone_hold_without_any_in_time() -> None:
    pace = paced(10, Limits(batch_tokens=64))
    pace.refused(now=0)
    assert pace.batch_tokens == 64
    assert pace.queue_tokens(now=0) == Limits(batch_tokens=64).queue_tokens
    assert Limits(batch_tokens=64).queue_seconds == inf
