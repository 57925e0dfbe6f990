"""Which requests fall to a candidate: always the same, as many as its share says, and none is ever taken back."""

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.registry.release import Candidate, key_of, place
from service.registry.store import State

KEYS = st.text(max_size=40)
VERSIONS = st.integers(1, 99)
SHARES = st.floats(0, 1)
INPUTS = st.lists(st.lists(st.text(max_size=10), min_size=1, max_size=2), max_size=3)


def candidate(share: float, version: int = 2) -> Candidate:
    return Candidate(version=version, mode="share", share=share)


@given(KEYS, VERSIONS)
def test_a_key_has_one_place_below_one(key: str, version: int) -> None:
    assert 0 <= place("mood", version, key) < 1
    assert place("mood", version, key) == place("mood", version, key)


@given(KEYS, VERSIONS, SHARES, SHARES)
def test_a_larger_share_takes_all_that_a_smaller_one_took(key: str, version: int, one: float, other: float) -> None:
    small, large = sorted([one, other])
    assert candidate(small, version).takes("mood", key) <= candidate(large, version).takes("mood", key)


@given(KEYS)
def test_no_share_takes_nobody_and_the_whole_takes_all(key: str) -> None:
    assert not candidate(0).takes("mood", key)
    assert candidate(1).takes("mood", key)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_a_share_takes_as_many_keys_as_it_says(share: float) -> None:
    keys = 20_000
    taken = sum(candidate(share).takes("mood", f"user-{number}") for number in range(keys))
    assert abs(taken / keys - share) < 5 * sqrt(share * (1 - share) / keys)  # standard errors of a fair draw


def test_another_release_takes_others_first() -> None:
    """So that not always the same users try what is new; of two releases at 30 %, 9 % of them meet both."""
    keys = [f"user-{number}" for number in range(20_000)]
    both = sum(candidate(0.3, 2).takes("mood", key) and candidate(0.3, 3).takes("mood", key) for key in keys)
    tasks = sum(candidate(0.3).takes("mood", key) and candidate(0.3).takes("spam", key) for key in keys)
    assert both / len(keys) == pytest.approx(0.09, abs=0.01)
    assert tasks / len(keys) == pytest.approx(0.09, abs=0.01)


def test_places_are_the_same_in_every_process_and_release_of_the_software() -> None:
    """Replicas agree on them, and an upgrade moves nobody."""
    assert place("mood", 2, "user-17") == 0.5294627100899306
    assert place("mood", 2, key_of([["good film"]])) == 0.5430950178241503
    assert candidate(0.53).takes("mood", "user-17")
    assert not candidate(0.52).takes("mood", "user-17")


@given(INPUTS, INPUTS)
def test_the_same_inputs_have_the_same_key_and_others_another(inputs: list[list[str]], others: list[list[str]]) -> None:
    assert (key_of(inputs) == key_of(others)) is (inputs == others)


@pytest.mark.parametrize("active", [None, 2])
def test_a_state_whose_candidate_stands_beside_nothing_is_none(active: int | None) -> None:
    with pytest.raises(ValidationError, match="beside another version"):
        State(active=active, candidate=candidate(0.5), last=2)
