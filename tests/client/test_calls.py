"""The client: answers as they are, refusals as the errors they were, and strangers told apart."""

import asyncio
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from service import errors
from service.adapters.file import digest
from service.api import schemas
from service.api.app import create_app
from service.api.keys import KeysFile
from service.api.problems import problem
from service.client import KEY_VARIABLE, NEVER, AsyncClient, Client, answers
from service.client.transport import finish
from service.engine.base_model import BaseModel
from service.errors import (
    BadAdapter,
    BadBase,
    BadData,
    BadInput,
    BadKeys,
    Conflict,
    Diverged,
    Forbidden,
    Overloaded,
    RootstockError,
    ServiceUnreachable,
    TooLarge,
    Unauthenticated,
    UnknownCandidate,
    UnknownTask,
    UnknownVersion,
)
from service.settings import Settings
from tests.client.conftest import Connect
from tests.live import listening
from tests.tiny import make_adapter

# What the service may send: every error but those that only a program on the spot can raise.
SENT = [
    error
    for error in vars(errors).values()
    if isinstance(error, type)
    and issubclass(error, RootstockError)
    and error not in (RootstockError, BadBase, BadData, BadKeys, Diverged, ServiceUnreachable)
]


class Stub:
    """Answers whatever it is told to."""

    def __init__(self) -> None:
        self.answer = Response()
        self.asked: list[Request] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(Request(scope))
        await self.answer(scope, receive, send)


@pytest.fixture(scope="module")
def stub_url() -> Iterator[tuple[Stub, str]]:
    stub = Stub()
    with listening(stub) as url:
        yield stub, url


@pytest.fixture
def stub(stub_url: tuple[Stub, str]) -> Stub:
    return stub_url[0]


@pytest.fixture
def stranger(stub_url: tuple[Stub, str], connect: Connect) -> Iterator[Client]:
    """A client of the stub, which takes what it says for its last word."""
    with connect(stub_url[1], retry=NEVER) as client:
        yield client


def test_predict_gives_one_prediction_per_input(client: Client) -> None:
    [one] = client.predict("mood", "good film")
    assert set(one) == {"label", "score", "scores"}
    assert len(client.predict("mood", ["good film", {"text": "bad film"}])) == 2
    assert len(client.predict("same", {"text": "good", "text_pair": "bad"})) == 1


def test_many_tasks_are_asked_at_once(client: Client) -> None:
    texts = ["good", "bad"]
    assert client.predict_many(["embedding", "mood"], texts) == {
        task: client.predict(task, texts) for task in ("embedding", "mood")
    }


def test_predict_passes_parameters_on(client: Client) -> None:
    [prediction] = client.predict("mood", "good film", top_k=1, version=1)
    assert len(prediction["scores"]) == 1
    with pytest.raises(BadInput, match="truncate is false"):
        client.predict("mood", "good " * 100, truncate=False)


def test_push_takes_bytes_and_files(client: Client, tiny_base: BaseModel, tmp_path: Path) -> None:
    data = make_adapter(tiny_base, seed=3)
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(data)
    first, again = client.push("pushed", data), client.push("pushed", path)
    assert first == again
    assert (first["digest"], first["state"]) == (digest(data), "active")
    assert client.push("pushed", make_adapter(tiny_base, seed=4), activate=False)["state"] == "inactive"
    client.retire("pushed")


def test_a_version_is_activated_read_and_deleted(client: Client, tiny_base: BaseModel) -> None:
    files = [make_adapter(tiny_base, seed=seed) for seed in (5, 6)]
    old, new = [client.push("living", file)["version"] for file in files]
    assert client.activate("living", old)["state"] == "active"
    assert client.versions("living")["active"] == client.task("living")["version"] == old
    client.delete("living", new)
    assert [one["version"] for one in client.versions("living")["versions"]] == [old]
    assert client.file("living", old) == files[0]
    with pytest.raises(Conflict, match="is the active one"):
        client.delete("living", old)
    client.retire("living")
    with pytest.raises(UnknownTask):
        client.task("living")


def test_a_release_goes_from_the_shadow_to_an_end(client: Client, tiny_base: BaseModel) -> None:
    files = [make_adapter(tiny_base, seed=seed) for seed in (7, 8)]
    old, new = [client.push("released", file, activate=file == files[0])["version"] for file in files]
    assert client.versions("released")["candidate"] is None
    candidate = client.nominate("released", new)["candidate"]
    assert candidate is not None
    assert (candidate["version"], candidate["mode"], candidate["share"]) == (new, "shadow", 1.0)
    client.nominate("released", new, "share", 0.5)

    def scores() -> list[float]:
        """By user; rounded, since a row's last digits may be its batch's."""
        answers = [client.predict("released", "good film", sticky_key=key) for key in map(str, range(20))]
        return [round(answer[0]["score"], 4) for answer in answers]

    sides = scores()
    assert scores() == sides
    assert len(set(sides)) == 2
    assert client.promote("released")["state"] == "active"
    client.nominate("released", old, "share", 0.0)
    client.abandon("released")
    with pytest.raises(UnknownCandidate, match="released has no candidate"):
        client.promote("released")
    assert client.versions("released")["active"] == new
    client.retire("released")


@pytest.mark.parametrize("key", ["", "ein Schlüssel", "two\nlines"])
def test_a_sticky_key_that_no_header_can_carry_is_refused(client: Client, key: str) -> None:
    with pytest.raises(BadInput, match="sticky key"):
        client.predict("mood", "good film", sticky_key=key)


def test_tasks_and_stats_are_the_services(client: Client, tiny_base: BaseModel) -> None:
    assert {"embedding", "mood", "same"} <= {task["task"] for task in client.tasks()}
    assert client.stats()["base"]["fingerprint"] == tiny_base.fingerprint


@pytest.mark.parametrize(
    ("task", "inputs", "error", "cause"),
    [
        ("nope", "good", UnknownTask, "there is no task 'nope'"),
        ("no/pe", "good", RootstockError, "/predict/no/pe: Not Found"),
        ("no?pe", "good", UnknownTask, r"no\?pe"),
        ("mood", "", BadInput, "is empty"),
        ("same", "good", BadInput, r"reads \{text, text_pair\}; a text was sent"),
        ("mood", "good " * 10_000, TooLarge, "more than 10000 bytes"),
    ],
)
def test_refusals_of_predict_come_back_as_they_were(
    client: Client, task: str, inputs: str, error: type[RootstockError], cause: str
) -> None:
    with pytest.raises(error, match=cause) as raised:
        client.predict(task, inputs)
    assert type(raised.value) is error


def test_refusals_of_push_come_back_as_they_were(client: Client, tiny_base: BaseModel) -> None:
    with pytest.raises(BadAdapter, match="too few") as raised:
        client.push("mood", b"")
    assert raised.value.facts == {"step": "header"}
    with pytest.raises(Conflict, match="bare base"):
        client.push("embedding", make_adapter(tiny_base))
    with pytest.raises(UnknownVersion, match="no version 99"):
        client.predict("mood", "good", version=99)


@pytest.mark.parametrize("error", SENT, ids=lambda error: error.__name__)
def test_every_error_of_the_service_is_known_to_the_client(
    stub: Stub, stranger: Client, error: type[RootstockError]
) -> None:
    stub.answer = problem(error.status, error.code, error.title, "for this reason", {"Retry-After": "7"})
    with pytest.raises(error, match=r"^for this reason$") as raised:
        stranger.tasks()
    assert type(raised.value) is error
    if isinstance(raised.value, Overloaded):
        assert raised.value.retry_after == 7


def test_an_error_of_a_later_service_is_an_error_all_the_same(stub: Stub, stranger: Client) -> None:
    stub.answer = problem(418, "teapot", "I am one", "short and stout")
    with pytest.raises(RootstockError, match="short and stout"):
        stranger.tasks()


@pytest.mark.parametrize(
    "answer",
    [
        HTMLResponse("<h1>It works!</h1>"),
        HTMLResponse("<h1>Not Found</h1>", 404),
        JSONResponse({"detail": "Not Found"}, 404),
        JSONResponse(["no", "problem"], 500),
        JSONResponse({}),
        JSONResponse([]),
        JSONResponse("fine"),
        Response(status_code=204),
        Response(b"\xff\xfe", 200),
        Response(status_code=302, headers={"Location": "/elsewhere"}),
    ],
)
def test_a_stranger_is_no_rootstock(stub: Stub, stranger: Client, answer: Response) -> None:
    stub.answer = answer
    calls: list[Any] = [lambda: stranger.predict("mood", "x"), lambda: stranger.push("mood", b""), stranger.stats]
    if answer.body != b"[]":
        calls.append(stranger.tasks)
    for call in calls:
        with pytest.raises(ServiceUnreachable, match=r"that is no Rootstock$"):
            call()


@pytest.mark.parametrize("address", ["http://[::1", "http://127.0.0.1:many", "no address", "ftp://127.0.0.1"])
def test_what_is_no_address_is_unreachable(address: str, connect: Connect) -> None:
    with pytest.raises(ServiceUnreachable, match=f"(?s){address[:6]}"), connect(address) as client:
        client.tasks()


def test_a_port_where_nobody_listens_is_unreachable(connect: Connect) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with connect(url, retry=NEVER) as client, pytest.raises(ServiceUnreachable, match=f"^no answer from {url}: "):
            client.predict("mood", "good film")


def test_a_service_that_does_not_answer_in_time_is_unreachable(connect: Connect) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with connect(url, timeout=0.02) as client, pytest.raises(ServiceUnreachable, match=r"timed out|Timeout"):
            client.tasks()


@pytest.mark.parametrize(("inputs", "parameters"), [("\ud800", {}), ("good", {"top_k": float("nan")})])
def test_what_json_cannot_carry_is_bad_input(client: Client, inputs: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="cannot be sent as JSON"):
        client.predict("mood", inputs, **parameters)


@pytest.mark.parametrize(("given", "held", "sent"), [
    (None, None, None), ("ours", None, "Bearer ours"), (None, "held", "Bearer held"), ("ours", "held", "Bearer ours"),
    ("", "held", None),
])  # fmt: skip
def test_a_key_is_sent_as_a_bearer_token(
    stub_url: tuple[Stub, str],
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    given: str | None,
    held: str | None,
    sent: str | None,
) -> None:
    stub, url = stub_url
    stub.answer = JSONResponse([])
    monkeypatch.delenv("ROOTSTOCK_KEY", raising=False)
    if held is not None:
        monkeypatch.setenv("ROOTSTOCK_KEY", held)
    with connect(url, key=given) as client:
        client.tasks()
    assert stub.asked[-1].headers.get("Authorization") == sent


@pytest.mark.parametrize("key", ["a b", "a\nb", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_told(connect: Connect, key: str) -> None:
    with pytest.raises(BadInput, match="no header can carry") as raised, connect("http://127.0.0.1:1", key=key):
        pass
    assert key not in str(raised.value)


def test_many_calls_are_under_way_at_once(url: str) -> None:
    texts = ["good film", "bad film", "never again"] * 4

    async def ask() -> list[Any]:
        async with AsyncClient(url) as client:
            return [*await asyncio.gather(*(client.predict("mood", text) for text in texts))]

    with Client(url) as client:
        one_by_one = [client.predict("mood", text) for text in texts]
    for [together], [alone] in zip(asyncio.run(ask()), one_by_one, strict=True):
        assert together["label"] == alone["label"]
        assert together["score"] == pytest.approx(alone["score"], abs=1e-4)


def test_a_call_that_would_need_an_event_loop_is_no_blocking_one() -> None:
    with pytest.raises(AssertionError, match="gave control away"):
        finish(asyncio.sleep(0))


@pytest.mark.parametrize(
    ("told", "documented"),
    [
        (answers.TaskFacts, schemas.TaskAnswer),
        (answers.VersionFacts, schemas.VersionAnswer),
        (answers.TaskVersions, schemas.AdapterAnswer),
        (answers.CandidateFacts, schemas.CandidateAnswer),
        (answers.SeenFacts, schemas.SeenAnswer),
        (answers.Latency, schemas.Latency),
        (answers.BaseStats, schemas.BaseStats),
        (answers.AdapterStats, schemas.AdapterStats),
        (answers.Stats, schemas.StatsAnswer),
    ],
    ids=lambda one: one.__name__,
)
def test_what_the_types_name_is_what_the_service_documents(told: type, documented: Any) -> None:
    assert told.__annotations__.keys() <= documented.model_fields.keys()


def test_a_predictions_type_names_what_the_kinds_answer() -> None:
    described = schemas.PredictAnswer.model_fields["predictions"].description
    assert described is not None
    named = {name for part in re.findall(r"\{([^}]+)\}", described) for name in part.split(", ")}
    assert named == answers.Prediction.__annotations__.keys()


def test_the_key_comes_from_the_environment_or_is_given(
    tmp_path: Path, tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = KeysFile(tmp_path / "keys.json")
    reader, writer = file.add("reader", ["predict"], None), file.add("writer", ["upload"], None)
    settings = Settings(store=tmp_path / "store", threads=1, keys_file=str(file.path))
    with listening(create_app(settings, tiny_base)) as url:
        with Client(url) as nobody, pytest.raises(Unauthenticated, match="needs a key"):
            nobody.tasks()
        monkeypatch.setenv(KEY_VARIABLE, reader)
        with Client(url) as client, Client(url, key=writer) as other:
            other.push("mood", make_adapter(tiny_base))
            assert len(client.predict("mood", "good film")) == 1
            with pytest.raises(Forbidden, match="key reader has scope predict; this takes upload"):
                client.push("mood", make_adapter(tiny_base))
