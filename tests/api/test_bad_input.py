"""What cannot be answered is refused with its cause, and changes nothing."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.types import Message

from service.adapters.manifest import KindName
from service.engine.base_model import BaseModel
from tests.api.harness import JSON, Harness, assert_problem, harness
from tests.tiny import make_adapter

MAX_INPUTS = 8
MAX_BODY_BYTES = 2_000_000
PAIR_WANTED = r"^inputs\[0\]: the task reads \{text, text_pair\}; a text was sent"
QUESTION_WANTED = r"^inputs\[0\]: the task reads \{question, context\}; "

NEWER: dict[str, KindName] = {"several": "multilabel", "tagged": "tagging", "found": "answer"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tiny_base: BaseModel) -> Iterator[Harness]:
    store = tmp_path_factory.mktemp("store")
    with harness(store, tiny_base, max_inputs=MAX_INPUTS, max_body_bytes=MAX_BODY_BYTES) as service:
        service.upload("mood", make_adapter(tiny_base, seed=1))
        service.upload("same", make_adapter(tiny_base, pair=True, seed=2))
        for seed, (task, kind) in enumerate(NEWER.items(), start=3):
            service.upload(task, make_adapter(tiny_base, kind=kind, seed=seed))
        yield service


@pytest.fixture(scope="module")
def before(shared: Harness) -> dict[str, Any]:
    return shared.state()


@pytest.fixture
def service(shared: Harness, before: dict[str, Any]) -> Iterator[Harness]:
    """The shared service, which every test must leave as it was."""
    yield shared
    assert shared.state() == before


def post(service: Harness, body: bytes, task: str = "mood", **headers: str) -> Any:
    return service.http.post(f"/predict/{task}", content=body, headers=JSON | headers)


@pytest.mark.parametrize("task", ["nope", "MOOD", "mood2", "%00", "%ff", "a" * 500])
def test_a_task_that_nobody_serves(service: Harness, task: str) -> None:
    assert_problem(service.predict(task, "good film"), 404, "unknown_task", "there is no task")
    assert_problem(service.http.get(f"/tasks/{task}"), 404, "unknown_task", "there is no task")
    assert_problem(service.http.get(f"/adapters/{task}"), 404, "unknown_task", "there is no task")


@pytest.mark.parametrize(
    ("inputs", "cause"),
    [
        ([], "^inputs: .*at least 1 item"),
        ("", r"^inputs\[0\]: text is empty"),
        (" \t\r\n\u00a0\u3000", r"^inputs\[0\]: text is empty"),
        (["good", "", "bad"], r"^inputs\[1\]: text is empty"),
        ({"text": " "}, r"^inputs\[0\]: text is empty"),
        (5, r"^inputs: An input is a text, \{text, text_pair\} or \{question, context\}"),
        (None, "^inputs: An input is a text"),
        (True, "^inputs: An input is a text"),
        (["good", 5], r"^inputs\[1\]: An input is a text"),
        ([None], r"^inputs\[0\]: An input is a text"),
        ([["good"]], r"^inputs\[0\]: An input is a text"),
        ({}, r"^inputs\.text: Field required"),
        ([{"txt": "good"}], r"^inputs\[0\]: there is no field txt"),
        ({"text": 5}, r"^inputs\.text: .*valid string"),
        ({"text": "good", "text_pair": 5}, r"^inputs\.text_pair: .*valid string"),
        ([{"text": "good", "label": "x"}], r"^inputs\[0\]: there is no field label"),
        ({"text": "good", "text_pair": "bad"}, r"^inputs\[0\]: the task reads a text; \{text, text_pair\} was sent"),
        (
            ["good", {"text": "good", "text_pair": ""}],
            r"^inputs\[1\]: the task reads a text; \{text, text_pair\} was sent",
        ),
        ({"question": "why", "context": "so"}, r"^inputs\[0\]: the task reads a text; \{question, context\} was sent"),
    ],
)
def test_inputs_that_are_none(service: Harness, inputs: Any, cause: str) -> None:
    assert_problem(service.predict("mood", inputs), 422, "bad_input", cause)


def test_more_inputs_than_one_request_may_hold(service: Harness) -> None:
    cause = f"^inputs: {MAX_INPUTS + 1} in one request; at most {MAX_INPUTS}"
    assert_problem(service.predict("mood", ["good"] * (MAX_INPUTS + 1)), 413, "too_large", cause)


@pytest.mark.parametrize(
    ("inputs", "cause"),
    [
        ("good", PAIR_WANTED),
        ({"text": "good"}, PAIR_WANTED),
        ({"text": "good", "text_pair": None}, PAIR_WANTED),
        ([{"text": "a", "text_pair": "b"}, "good"], PAIR_WANTED.replace("0", "1")),
        ({"text": "good", "text_pair": " "}, r"^inputs\[0\]: text_pair is empty"),
        ({"text": "\n", "text_pair": "good"}, r"^inputs\[0\]: text is empty"),
        (
            {"question": "why", "context": "so"},
            r"^inputs\[0\]: the task reads \{text, text_pair\}; \{question, context\} was",
        ),
    ],
)
def test_half_a_pair(service: Harness, inputs: Any, cause: str) -> None:
    assert_problem(service.predict("same", inputs), 422, "bad_input", cause)


@pytest.mark.parametrize(
    ("inputs", "cause"),
    [
        ("why", QUESTION_WANTED + "a text was sent"),
        ({"text": "why"}, QUESTION_WANTED + "a text was sent"),
        ({"text": "why", "text_pair": "so"}, QUESTION_WANTED + r"\{text, text_pair\} was sent"),
        ([{"question": "why", "context": "so"}, "why"], QUESTION_WANTED.replace("0", "1") + "a text was sent"),
        ({"question": "why", "context": " "}, r"^inputs\[0\]: context is empty"),
        ({"question": "", "context": "so"}, r"^inputs\[0\]: question is empty"),
        ({"question": "why"}, r"^inputs\.context: Field required"),
        ({"context": "so"}, r"^inputs\.question: Field required"),
        ([{"question": "why", "context": None}], r"^inputs\[0\]\.context: .*valid string"),
        ({"question": 5, "context": "so"}, r"^inputs\.question: .*valid string"),
        ({"question": "why", "context": "so", "text": "x"}, r"^inputs: there is no field text"),
        ({"question": "why", "context": ["so"]}, r"^inputs\.context: .*valid string"),
    ],
)
def test_half_a_question(service: Harness, inputs: Any, cause: str) -> None:
    assert_problem(service.predict("found", inputs), 422, "bad_input", cause)


@pytest.mark.parametrize("task", ["tagged", "several"])
def test_a_question_where_a_text_is_due(service: Harness, task: str) -> None:
    response = service.predict(task, {"question": "why", "context": "so"})
    assert_problem(response, 422, "bad_input", r"^inputs\[0\]: the task reads a text; \{question, context\} was sent")


def test_a_question_too_long_where_truncation_is_forbidden(service: Harness) -> None:
    response = service.predict("found", {"question": "why " * 31, "context": "so"}, truncate=False)
    assert_problem(response, 422, "bad_input", r"inputs\[0\]: longer than the task's 64 tokens")
    long = {"question": "why", "context": "so " * 500}  # read in windows, so nothing is cut
    assert service.predict("found", long, truncate=False).status_code == 200


def test_as_many_inputs_as_are_allowed_are_answered(service: Harness) -> None:
    assert len(service.answers("mood", ["good"] * MAX_INPUTS)) == MAX_INPUTS


@pytest.mark.parametrize(
    ("parameters", "cause"),
    [
        ({"top_k": 0}, r"^parameters\.top_k: .*greater than or equal to 1"),
        ({"top_k": "3"}, r"^parameters\.top_k: .*valid integer"),
        ({"top_k": 1.5}, r"^parameters\.top_k: .*valid integer"),
        ({"top_k": True}, r"^parameters\.top_k: .*valid integer"),
        ({"truncate": 1}, r"^parameters\.truncate: .*valid boolean"),
        ({"version": -1}, r"^parameters\.version: .*greater than or equal to 0"),
        ({"version": "1"}, r"^parameters\.version: .*valid integer"),
        ({"topk": 3}, r"^parameters: there is no field topk"),
        ([], "^parameters: .*object"),
        (None, "^parameters: .*object"),
    ],
)
def test_parameters_that_are_none(service: Harness, parameters: Any, cause: str) -> None:
    body = json.dumps({"inputs": "good film", "parameters": parameters}).encode()
    assert_problem(post(service, body), 422, "bad_input", cause)


@pytest.mark.parametrize(("task", "version"), [("mood", 0), ("mood", 2), ("mood", 10**30), ("embedding", 1)])
def test_a_version_that_is_not_there(service: Harness, task: str, version: int) -> None:
    response = service.predict(task, "good film", version=version)
    assert_problem(response, 404, "unknown_version", f"no version {version}$")


def test_a_text_too_long_where_truncation_is_forbidden(service: Harness) -> None:
    response = service.predict("mood", ["good", "good " * 63], truncate=False)
    assert_problem(response, 422, "bad_input", r"inputs\[1\]: longer than the task's 64 tokens")


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b"", "Invalid JSON"),
        (b"{", "Invalid JSON"),
        (b'{"inputs": "good film"} more', "Invalid JSON"),
        (b"{'inputs': 'good film'}", "Invalid JSON"),
        (b'{"inputs": "good\nfilm"}', "Invalid JSON"),
        (b"\x80\x04\x95", "not UTF-8"),
        (b"null", "object"),
        (b"[]", "object"),
        (b'"good film"', "object"),
        (b"{}", "inputs: Field required"),
        (b'{"input": "good film"}', "there is no field input"),
        (b'{"inputs": "good film", "task": "mood"}', "there is no field task"),
        (b'{"inputs": NaN}', "inputs: "),
        (b'{"inputs": "good", "parameters": {"top_k": ' + b"9" * 5000 + b"}}", "number out of range"),
        (b'{"inputs": "good film", "' + b"k" * 100_000 + b'": 1}', "there is no field k{100}$"),
    ],
)
def test_a_body_that_is_not_the_json_asked_for(service: Harness, body: bytes, cause: str) -> None:
    assert_problem(post(service, body), 422, "bad_input", cause)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"inputs": ' + b'{"text": ' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    ],
)
def test_json_nested_a_hundred_thousand_deep(service: Harness, body: bytes) -> None:
    assert_problem(post(service, body), 422, "bad_input", "recursion limit")


@pytest.mark.parametrize("text", [b"\xff", b"good \xc3\x28", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80"])
def test_bytes_that_are_not_utf8(service: Harness, text: bytes) -> None:
    assert_problem(post(service, b'{"inputs": "%s"}' % text), 422, "bad_input", r"not UTF-8: byte \d+ cannot be read")


@pytest.mark.parametrize("escape", [rb"\ud800", rb"good \ud800 film", rb"\udc00", rb"\udc00\ud800", rb"\ud800A"])
def test_half_a_surrogate_pair_is_no_text(service: Harness, escape: bytes) -> None:
    assert_problem(post(service, b'{"inputs": "%s"}' % escape), 422, "bad_input", "Invalid JSON: .*hex escape")
    assert_problem(post(service, b'{"%s": "good"}' % escape), 422, "bad_input", "Invalid JSON: .*hex escape")


def test_a_whole_surrogate_pair_is_text(service: Harness) -> None:
    assert post(service, rb'{"inputs": "\ud83d\ude42"}').json() == service.predict("mood", "🙂").json()


def test_ten_megabytes_are_refused_by_their_declared_length(service: Harness) -> None:
    body = b'{"inputs": "%s"}' % (b"good film " * 1_000_000)
    assert_problem(post(service, body), 413, "too_large", f"more than {MAX_BODY_BYTES} bytes")


def test_ten_megabytes_are_refused_while_they_arrive(service: Harness) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"inputs": "'
        for _ in range(100):
            yield b"good film " * 10_000

    response = service.http.post("/predict/mood", content=chunks(), headers=JSON)
    assert "Content-Length" not in response.request.headers
    assert_problem(response, 413, "too_large", f"more than {MAX_BODY_BYTES} bytes")


def test_a_body_of_just_the_limit_is_read(service: Harness) -> None:
    body = b'{"inputs": "good film"}'.ljust(MAX_BODY_BYTES)
    assert post(service, body).status_code == 200
    assert_problem(post(service, body + b" "), 413, "too_large", "more than")


@pytest.mark.parametrize("length", ["many", "1e3", "9" * 5000, "12,12"])
def test_a_length_that_is_no_number(service: Harness, length: str) -> None:
    response = post(service, b'{"inputs": "good film"}', **{"Content-Length": length})
    assert_problem(response, 422, "bad_input", "Content-Length is not a number")


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "nonsense"])
def test_another_media_type(service: Harness, media: str) -> None:
    response = service.http.post("/predict/mood", content=b'{"inputs": "x"}', headers={"Content-Type": media})
    assert_problem(response, 415, "unsupported_media_type", f"is {media}; send it as application/json")


@pytest.mark.parametrize("path", ["/", "/predictions", "/nope", "/predict/mood/more", "/predict/..%2f..%2fetc", "/%ff"])
def test_a_path_that_leads_nowhere(service: Harness, path: str) -> None:
    assert_problem(service.http.post(path, json={"inputs": "x"}), 404, "no_such_path", "^POST /.*: Not Found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/predict/mood", {"POST"}),
        ("DELETE", "/tasks", {"GET"}),
        ("PATCH", "/adapters/mood", {"GET", "PUT", "DELETE"}),
        ("POST", "/stats", {"GET"}),
    ],
)
def test_a_method_that_the_path_does_not_have(service: Harness, method: str, path: str, allowed: set[str]) -> None:
    response = service.http.request(method, path)
    assert_problem(response, 405, "method_not_allowed", f"^{method} {path}: Method Not Allowed")
    assert set(response.headers["Allow"].split(", ")) == allowed


def test_a_caller_who_leaves_in_the_middle_of_a_body(service: Harness, caplog: pytest.LogCaptureFixture) -> None:
    first: Message = {"type": "http.request", "body": b'{"inputs": ', "more_body": True}
    messages = iter([first, {"type": "http.disconnect"}])
    sent: list[Message] = []

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict/mood",
        "headers": [(b"content-type", b"application/json")],
        "query_string": b"",
        "root_path": "",
    }
    asyncio.run(service.http.app(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 400
    assert not caplog.records
