"""More inputs than a service takes at once: in parts, in order, by one version, and as if there were no parts."""

from collections.abc import Iterator
from itertools import pairwise
from json import dumps

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.client import Client
from service.client import client as calls
from service.client.batches import parted, placed
from service.errors import BadInput, Conflict, TooLarge
from tests.client.conftest import Connect
from tests.flaky import Fate, relaying

TEXTS = [f"the {word} film" for word in "abcdefghijklmnopqrstuvwxyz"]


@given(st.lists(st.text(max_size=20)), st.integers(1, 8), st.integers(1, 60))
def test_parts_are_whole_in_order_and_within_the_limits(inputs: list[str], most: int, most_bytes: int) -> None:
    parts = [list(part) for part in parted(inputs, most, most_bytes)]
    assert [one for part in parts for one in part] == inputs
    assert all(parts) or not inputs
    for part in parts:
        assert len(part) <= most
        size = sum(len(dumps(one, ensure_ascii=False).encode()) + 1 for one in part)
        assert size <= most_bytes or len(part) == 1


@given(st.lists(st.text(max_size=20), min_size=1), st.integers(1, 8), st.integers(1, 60))
def test_no_part_could_have_taken_the_next_input_too(inputs: list[str], most: int, most_bytes: int) -> None:
    parts = [list(part) for part in parted(inputs, most, most_bytes)]
    for part, following in pairwise(parts):
        size = sum(len(dumps(one, ensure_ascii=False).encode()) + 1 for one in [*part, following[0]])
        assert len(part) == most or size > most_bytes


def test_a_service_that_takes_few_inputs_answers_many(client: Client) -> None:
    one_by_one = [client.predict("embedding", text)[0]["embedding"] for text in TEXTS]
    together = client.predict("embedding", TEXTS)
    for one, other in zip(one_by_one, together, strict=True):
        assert other["embedding"] == pytest.approx(one, abs=1e-4)
    many = client.predict_many(["mood", "embedding"], TEXTS)
    assert many.keys() == {"mood", "embedding"}
    assert [len(found) for found in many.values()] == [len(TEXTS)] * 2
    for one, other in zip(one_by_one, many["embedding"], strict=True):
        assert other["embedding"] == pytest.approx(one, abs=1e-4)


def test_all_parts_go_to_one_side_of_a_release(client: Client, url: str) -> None:
    """Of many tasks too, where no part can name a version."""
    with Client(url) as starter:
        starter.nominate("mood", 2, "share", 0.5)
    try:
        for number in range(12):
            texts = [f"{text} {number}" for text in TEXTS]
            assert len(client.predict_many(["mood"], texts)["mood"]) == len(texts)
            assert len(client.predict_many(["mood"], texts, sticky_key=str(number))["mood"]) == len(texts)
    finally:
        with Client(url) as ender:
            ender.abandon("mood")


def test_a_service_that_takes_few_bytes_answers_many(client: Client) -> None:
    texts = [text + " x" * 500 for text in TEXTS[:20]]
    assert len(client.predict("mood", texts)) == len(texts)


def test_one_input_that_is_too_large_is_told(client: Client) -> None:
    with pytest.raises(TooLarge, match="more than 10000 bytes"):
        client.predict("mood", ["good", "x" * 20_000, "bad"])


@pytest.mark.parametrize("bad", [0, 11, 12, 25])
def test_what_is_wrong_is_named_by_its_place_in_the_whole(client: Client, bad: int) -> None:
    texts = [*TEXTS[:bad], " ", *TEXTS[bad + 1 :]]
    with pytest.raises(BadInput, match=rf"^inputs\[{bad}\]: text is empty"):
        client.predict("mood", texts)


def test_a_place_is_moved_and_nothing_else() -> None:
    assert placed("inputs[3].text: inputs[1]", 10) == "inputs[13].text: inputs[1]"
    assert placed("tasks: inputs[3]", 10) == "tasks: inputs[3]"


def test_no_input_is_the_services_to_refuse(client: Client) -> None:
    with pytest.raises(BadInput, match="at least 1 item"):
        client.predict("mood", [])


def activated_after_the_first_part(url: str) -> Iterator[Fate]:
    yield Fate.PASSED
    with Client(url) as other:
        other.activate("mood", 2)
    while True:
        yield Fate.PASSED


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, url: str) -> Iterator[None]:
    """Parts of ten inputs; afterwards, `mood` is as it was."""
    monkeypatch.setattr(calls, "MOST_INPUTS", 10)
    yield
    with Client(url) as other:
        other.activate("mood", 1)


@pytest.mark.usefixtures("few")
def test_one_version_answers_all_parts_of_a_call(url: str, connect: Connect) -> None:
    with relaying(url, activated_after_the_first_part(url)) as relay, connect(relay.url) as client:
        found = client.predict("mood", TEXTS)
        assert found == client.predict("mood", TEXTS, version=1)
        assert found != client.predict("mood", TEXTS)


@pytest.mark.usefixtures("few")
def test_two_versions_in_one_call_of_many_tasks_are_a_conflict(url: str, connect: Connect) -> None:
    with (
        relaying(url, activated_after_the_first_part(url)) as relay,
        connect(relay.url) as client,
        pytest.raises(Conflict, match="task mood went from version 1 to 2"),
    ):
        client.predict_many(["mood", "embedding"], TEXTS)
