"""A service that is busy, or a connection that is lost: tried again where that harms nobody, and never for long."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import repeat
from random import Random

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from service.api.problems import problem
from service.client import NEVER, Client, Retry
from service.client import client as calls
from service.client.retry import retry_after
from service.client.transport import Awaiting, Blocking
from service.engine.base_model import BaseModel
from service.errors import Overloaded, RootstockError, ServiceUnreachable, StoreUnreachable
from tests.client.conftest import Connect
from tests.flaky import Fate, relaying
from tests.live import listening
from tests.tiny import make_adapter

AT_ONCE = Retry(times=50, first=0.0)
TROUBLE = [Fate.CUT, Fate.LOST, Fate.BUSY, Fate.LIMITED]


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, none of which takes time."""
    pauses: list[float] = []

    async def sleep(self: object, seconds: float) -> None:
        pauses.append(seconds)

    for transport in (Blocking, Awaiting):
        monkeypatch.setattr(transport, "sleep", sleep)
    return pauses


@pytest.mark.parametrize("seed", range(3))
def test_over_a_flaky_line_each_input_gets_its_answer_in_order(
    url: str, connect: Connect, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = Random(seed)
    fates = (dice.choice([*[Fate.PASSED] * 4, *TROUBLE]) for _ in repeat(None))
    texts = [f"good {word} film" for word in "abcdefghijklmn"]
    monkeypatch.setattr(calls, "MOST_INPUTS", 3)
    with Client(url) as straight, relaying(url, fates) as relay, connect(relay.url, retry=AT_ONCE) as client:
        assert client.predict("embedding", texts) == straight.predict("embedding", texts)
        assert client.predict_many(["mood", "embedding"], texts) == straight.predict_many(["mood", "embedding"], texts)
    assert len(relay.arrived) > 2 * len(texts) // 3  # some were asked twice


@pytest.mark.parametrize("fate", TROUBLE)
def test_an_upload_is_repeated_and_is_one_version(url: str, connect: Connect, fate: Fate, tiny_base: BaseModel) -> None:
    data = make_adapter(tiny_base, seed=21)
    with relaying(url, iter([fate, fate])) as relay, connect(relay.url, retry=AT_ONCE) as client:
        number = client.push("flaky", data)["version"]
        assert [one["version"] for one in client.versions("flaky")["versions"]] == [number]
        client.retire("flaky")


@pytest.mark.parametrize("fate", [Fate.CUT, Fate.LOST])
def test_what_another_may_have_undone_meanwhile_is_not_repeated(url: str, connect: Connect, fate: Fate) -> None:
    with relaying(url, iter([fate] * 3)) as relay, connect(relay.url, retry=AT_ONCE) as client:
        for change in (
            lambda: client.activate("mood", 1),
            lambda: client.delete("mood", 99),
            lambda: client.retire("nobody"),
        ):
            with pytest.raises(ServiceUnreachable, match="no answer from"):
                change()
        assert len(relay.arrived) == (3 if fate is Fate.LOST else 0)


@pytest.mark.parametrize("fate", [Fate.BUSY, Fate.LIMITED])
def test_what_was_refused_for_want_of_room_is_repeated_whatever_it_is(url: str, connect: Connect, fate: Fate) -> None:
    with relaying(url, iter([fate, fate])) as relay, connect(relay.url, retry=AT_ONCE) as client:
        assert client.activate("mood", 1)["version"] == 1
        assert relay.arrived == ["POST /adapters/mood/activate"]


@pytest.mark.parametrize("fate", TROUBLE)
def test_after_the_last_try_the_error_is_told(url: str, connect: Connect, fate: Fate, slept: list[float]) -> None:
    with (
        relaying(url, repeat(fate)) as relay,
        connect(relay.url, retry=Retry(times=3)) as client,
        pytest.raises(RootstockError),
    ):
        client.tasks()
    assert len(slept) == 3


def test_who_wants_no_second_try_gets_none(url: str, connect: Connect, slept: list[float]) -> None:
    with relaying(url, iter([Fate.CUT])) as relay, connect(relay.url, retry=NEVER) as client:
        with pytest.raises(ServiceUnreachable):
            client.tasks()
        assert client.tasks()
    assert not slept


def test_nobody_listening_is_tried_again(connect: Connect, slept: list[float]) -> None:
    with connect("http://127.0.0.1:1", retry=Retry(times=2)) as client, pytest.raises(ServiceUnreachable):
        client.activate("mood", 1)  # it was surely not done
    assert len(slept) == 2


def test_a_service_that_answers_too_late_is_not_asked_again(
    connect: Connect, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    async def send(self: object, request: object) -> httpx2.Response:
        asked.append(request)
        raise httpx2.ReadTimeout("too late")

    for transport in (Blocking, Awaiting):
        monkeypatch.setattr(transport, "send", send)
    with connect("http://127.0.0.1:1") as client, pytest.raises(ServiceUnreachable, match="too late"):
        client.tasks()
    assert len(asked) == 1
    assert not slept


@given(st.integers(1, 60), st.floats(0, 20), st.floats(0, 1), st.floats(0, 5), st.floats(0, 20), st.integers(0, 60))
def test_a_pause_is_what_was_asked_and_some_jitter(
    failures: int, asked: float, dice: float, first: float, most: float, times: int
) -> None:
    pause = Retry(times, first, most).pause(failures, asked, lambda: dice)
    if failures > times or asked > most:
        assert pause is None
    else:
        assert pause is not None
        assert asked <= pause <= asked + min(most, first * 2.0 ** (failures - 1))


def test_pauses_grow_and_their_length_is_chance() -> None:
    assert [Retry().pause(failures, dice=lambda: 1.0) for failures in (1, 2, 3, 4, 5)] == [0.1, 0.2, 0.4, 0.8, None]
    assert Retry().pause(3, asked=2.0, dice=lambda: 0.5) == 2.2


@pytest.mark.parametrize(("asked", "paused"), [("3", 1), ("11", 0), ("", 1), ("soon", 1), ("-5", 1)])
def test_what_the_service_asks_is_what_is_waited(connect: Connect, slept: list[float], asked: str, paused: int) -> None:
    refusal = problem(503, Overloaded.code, Overloaded.title, "no room", {"Retry-After": asked})
    responses = iter([refusal, JSONResponse([])])

    async def busy_once(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"  # no lifespan
        await next(responses)(scope, receive, send)

    with listening(busy_once) as url, connect(url, retry=Retry(first=0.0)) as client:
        if paused:
            client.tasks()
            assert slept == [float(asked) if asked.isdecimal() else 0.0]
        else:
            with pytest.raises(Overloaded) as raised:
                client.tasks()
            assert raised.value.retry_after == 11.0


def test_a_date_to_come_back_at_is_understood() -> None:
    def asks(value: str) -> float:
        return retry_after(httpx2.Response(503, headers={"Retry-After": value}))

    later = datetime.now(UTC) + timedelta(hours=1)
    assert 3500 < asks(format_datetime(later, usegmt=True)) <= 3600
    assert asks("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert asks("Wed, 21 Oct 2015 07:28:00 -0000") == 0


def test_what_may_have_been_done_in_a_store_that_went_silent_is_repeated_only_where_that_harms_nobody(
    connect: Connect, slept: list[float]
) -> None:
    asked: list[str] = []

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["method"])
        error = StoreUnreachable
        await problem(503, error.code, error.title, "store s3://adapters", {"Retry-After": "5"})(scope, receive, send)

    with listening(silent) as url, connect(url, retry=Retry(times=2)) as client:
        with pytest.raises(StoreUnreachable, match="store s3://adapters"):
            client.activate("mood", 1)
        with pytest.raises(StoreUnreachable, match="store s3://adapters"):
            client.push("mood", b"file")
    assert asked == ["POST", "PUT", "PUT", "PUT"]
