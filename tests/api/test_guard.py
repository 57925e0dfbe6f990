"""What stands before every route: keys and their scopes, names, origins, headers; and nothing secret gets out."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, get_args

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Send
from starlette.types import Scope as Connection

from service.api.guard import OPEN, Guard
from service.api.keys import KeysFile, Scope
from service.api.problems import SECURITY_HEADERS
from service.engine.base_model import BaseModel
from service.errors import BadKeys
from service.registry.registry import Registry
from tests.api.harness import Harness, assert_problem, harness
from tests.tiny import make_adapter

SCOPES: tuple[Scope, ...] = get_args(Scope)
PATIENCE = 60.0  # seconds; only a failing test waits so long
SENTENCE = {"inputs": "good film"}
# What each call takes: any one of these scopes, or any key at all.
CALLS: dict[tuple[str, str], tuple[Scope, ...]] = {
    ("POST", "/predict/mood"): ("predict",),
    ("POST", "/predict"): ("predict",),
    ("POST", "/embed"): ("predict",),
    ("POST", "/v1/embeddings"): ("predict",),
    ("GET", "/v2"): SCOPES,
    ("GET", "/v2/models/mood"): SCOPES,
    ("GET", "/v2/models/mood/ready"): SCOPES,
    ("POST", "/v2/models/mood/infer"): ("predict",),
    ("GET", "/v2/models/mood/versions/1"): SCOPES,
    ("GET", "/v2/models/mood/versions/1/ready"): SCOPES,
    ("POST", "/v2/models/mood/versions/1/infer"): ("predict",),
    ("POST", "/v2/repository/index"): SCOPES,
    ("POST", "/v2/repository/models/mood/load"): ("upload",),
    ("POST", "/v2/repository/models/mood/unload"): ("upload",),
    ("GET", "/tasks"): SCOPES,
    ("GET", "/tasks/mood"): SCOPES,
    ("PUT", "/adapters/mood"): ("upload",),
    ("GET", "/adapters/mood"): ("upload",),
    ("GET", "/adapters/mood/log"): ("upload",),
    ("GET", "/adapters/mood/versions/1"): ("upload",),
    ("POST", "/adapters/mood/candidate"): ("upload",),
    ("DELETE", "/adapters/mood/candidate"): ("upload",),
    ("POST", "/adapters/mood/candidate/promote"): ("upload",),
    ("POST", "/adapters/mood/activate"): ("upload",),
    ("DELETE", "/adapters/mood/versions/1"): ("admin",),
    ("DELETE", "/adapters/mood"): ("admin",),
    ("GET", "/stats"): SCOPES,
    ("GET", "/metrics"): ("metrics",),
}
TENSORS = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["good film"]}]}
BODIES: dict[str, dict[str, Any]] = {
    "/embed": {"json": SENTENCE},
    "/v1/embeddings": {"json": {"input": "good film", "model": "embedding"}},
    "/v2/models/mood/infer": {"json": TENSORS},
    "/v2/models/mood/versions/1/infer": {"json": TENSORS},
    "/v2/repository/index": {"json": {}},
    "/predict/mood": {"json": SENTENCE},
    "/predict": {"json": SENTENCE | {"tasks": ["mood"]}},
    "/adapters/mood/candidate": {"json": {"version": 1, "mode": "shadow"}},
    "/adapters/mood/activate": {"json": {"version": 2}},
}


class Kept:
    """A service that asks for keys, and the secret of one for each scope."""

    def __init__(self, service: Harness, file: KeysFile) -> None:
        self.service, self.file, self.http = service, file, service.http
        self.keyring = service.services.keyring
        self.secrets = {scope: file.add(scope, [scope], None) for scope in SCOPES}
        self.refresh()

    def refresh(self) -> None:
        assert self.keyring is not None
        self.keyring.refresh()

    def call(self, method: str, path: str, secret: str | bytes | None = None, **body: Any) -> Any:
        sent = secret.encode() if isinstance(secret, str) else secret
        headers = {} if sent is None else {b"Authorization": b"Bearer " + sent}
        default = BODIES.get(path, {}) if method == "POST" else {}
        return self.http.request(method, path, headers=headers, **(body or default))

    def upload(self, data: bytes, task: str = "mood") -> None:
        answer = self.call("PUT", f"/adapters/{task}", self.secrets["upload"], content=data)
        assert answer.status_code == 201, answer.text


@pytest.fixture
def kept(tmp_path: Path, tiny_base: BaseModel) -> Iterator[Kept]:
    file = KeysFile(tmp_path / "keys.json")
    file.add("first", ["admin"], None)
    with harness(tmp_path / "store", tiny_base, keys_file=str(file.path)) as service:
        yield Kept(service, file)


def assert_refused(answer: Any, status: int, code: str, said: str) -> None:
    """In whichever form the path has."""
    if answer.request.url.path.split("/")[1] in ("embed", "v1", "v2"):
        assert (answer.status_code, said in answer.text) == (status, True), answer.text
    else:
        assert_problem(answer, status, code, said)


def paths(service: Harness) -> set[tuple[str, str]]:
    """Every call that the service takes, with names filled in."""
    document = service.get("/openapi.json")["paths"]
    filled = {path: path.replace("{task}", "mood").replace("{version}", "1") for path in document}
    return {(method.upper(), filled[path]) for path, methods in document.items() for method in methods}


def test_the_table_of_this_test_has_every_call(kept: Kept) -> None:
    assert {call for call in paths(kept.service) if call[1] not in OPEN} == CALLS.keys()


@pytest.mark.parametrize("secret", [None, "", "wrong", "rootstock_" + "A" * 43, b"\xe4"])
def test_no_call_but_the_open_ones_is_answered_without_a_key(kept: Kept, secret: str | bytes | None) -> None:
    for method, path in [*CALLS, ("GET", "/no/such/path"), ("PATCH", "/tasks")]:
        answer = kept.call(method, path, secret)
        assert_refused(answer, 401, "unauthenticated", "needs a key" if secret is None else "not known")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for path in OPEN:
        assert kept.call("GET", path, secret).status_code == 200


@pytest.mark.parametrize("given", ["Basic Zm9vOmJhcg==", "Bearer", "", "{secret}", "Basic {secret}"])
def test_a_key_comes_as_a_bearer(kept: Kept, given: str) -> None:
    headers = {"Authorization": given.replace("{secret}", kept.secrets["admin"])}
    assert_problem(kept.http.get("/tasks", headers=headers), 401, "unauthenticated", "key")


def test_the_schemes_case_does_not_matter(kept: Kept) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        headers = {"Authorization": f"{scheme} {kept.secrets['predict']}"}
        assert kept.http.get("/tasks", headers=headers).status_code == 200


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_is_taken_for_its_scopes_alone(kept: Kept, tiny_base: BaseModel, scope: Scope) -> None:
    kept.upload(make_adapter(tiny_base, seed=1))
    kept.upload(make_adapter(tiny_base, seed=2))
    for (method, path), scopes in CALLS.items():
        body = {"content": make_adapter(tiny_base, seed=3)} if method == "PUT" else {}
        if path.endswith("/promote"):  # the candidate was abandoned
            kept.call("POST", path.removesuffix("/promote"), kept.secrets["admin"])
        answer = kept.call(method, path, kept.secrets[scope], **body)
        if scope in scopes or scope == "admin":
            assert answer.is_success, answer.text
        else:
            assert_refused(answer, 403, "forbidden", f"key {scope} has scope {scope}; this takes {scopes[0]}")


def test_a_key_that_is_limited_to_tasks_reaches_no_others(kept: Kept, tiny_base: BaseModel) -> None:
    for task in ("mood", "colour"):
        kept.upload(make_adapter(tiny_base, seed=1), task)
    secret = kept.file.add("limited", ["admin"], ["mood", "later"])
    kept.refresh()
    assert [task["task"] for task in kept.call("GET", "/tasks", secret).json()] == ["mood"]
    for method, path in CALLS:
        if "mood" in path and method != "DELETE":
            assert kept.call(method, path, secret).status_code not in (401, 403)
        other, absent = path.replace("mood", "colour"), path.replace("mood", "absent")
        if other != path:
            answers = [kept.call(method, beyond, secret) for beyond in (other, absent)]
            for answer, task in zip(answers, ("colour", "absent"), strict=True):
                assert_refused(answer, 403, "forbidden", f"limited to other tasks than '{task}'")
    for path in ("/embed", "/v1/embeddings"):
        assert_refused(kept.call("POST", path, secret), 403, "forbidden", "limited to other tasks than 'embedding'")
    assert {one["name"] for one in kept.call("POST", "/v2/repository/index", secret).json()} == {"mood"}
    for tasks in (["colour"], ["mood", "colour"], ["mood", "embedding"], ["absent"]):
        answer = kept.call("POST", "/predict", secret, json=SENTENCE | {"tasks": tasks})
        assert_problem(answer, 403, "forbidden", f"limited to other tasks than '{tasks[-1]}'")
    assert kept.call("POST", "/predict", secret, json=SENTENCE | {"tasks": ["mood"]}).status_code == 200
    assert kept.call("PUT", "/adapters/later", secret, content=make_adapter(tiny_base)).status_code == 201


def test_a_key_is_replaced_without_a_moment_that_none_is_taken(kept: Kept) -> None:
    old, new = kept.secrets["predict"], kept.file.add("predict-2", ["predict"], None)
    kept.refresh()
    assert [kept.call("GET", "/tasks", secret).status_code for secret in (old, new)] == [200, 200]
    kept.file.remove("predict")
    kept.refresh()
    assert [kept.call("GET", "/tasks", secret).status_code for secret in (old, new)] == [401, 200]


def test_metrics_may_be_open(tmp_path: Path, tiny_base: BaseModel) -> None:
    file = KeysFile(tmp_path / "keys.json")
    file.add("first", ["admin"], None)
    with harness(tmp_path / "store", tiny_base, keys_file=str(file.path), metrics_open=True) as service:
        assert service.http.get("/metrics").status_code == 200
        assert service.http.get("/stats").status_code == 401


def test_without_a_file_of_keys_none_is_asked_for(service: Harness) -> None:
    assert service.http.get("/tasks", headers={"Authorization": "Bearer whatever"}).status_code == 200


def test_nothing_secret_gets_out(kept: Kept, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.DEBUG)
    kept.file.add("later", ["predict"], None)
    kept.refresh()
    said = []
    for secret in (*kept.secrets.values(), "rootstock_wrong-secret"):
        for method, path in CALLS:
            answer = kept.call(method, path, secret)
            said.append(answer.text + repr(answer.headers))
    monkeypatch.setattr(Registry, "tasks", lambda self: 1 / 0)
    said.append(kept.call("GET", "/tasks", kept.secrets["admin"]).text)
    said += [kept.call("GET", "/metrics", kept.secrets["metrics"]).text, caplog.text]
    assert "ZeroDivisionError" in caplog.text
    assert kept.keyring is not None
    for hidden in (*kept.secrets.values(), "wrong-secret", *(key.sha256 for key in kept.keyring.table.keys)):
        assert not [text for text in said if hidden in text]


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True),
        ("LocalHost:8000", True),
        ("127.0.0.1", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("192.0.2.7:8000", True),
        ("rootstock:8000", True),
        ("Models.Example", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example:8000", False),
        ("rootstock.evil.example", False),
        ("evil@localhost", False),
        ("localhost:8000:1", False),
        ("", False),
    ],
)
def test_the_service_answers_to_its_own_names(tmp_path: Path, tiny_base: BaseModel, host: str, known: bool) -> None:
    with harness(tmp_path / "store", tiny_base, hosts="rootstock, models.example") as service:
        answer = service.http.get("/tasks", headers={"Host": host})
        if known:
            assert answer.status_code == 200
        else:
            assert_problem(answer, 421, "misdirected", "the setting hosts")


def test_any_name_may_be_allowed(tmp_path: Path, tiny_base: BaseModel) -> None:
    with harness(tmp_path / "store", tiny_base, hosts="*") as service:
        assert service.http.get("/tasks", headers={"Host": "any.example"}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:3000", "null", "http://127.0.0.1", ""])
@pytest.mark.parametrize("path", ["/healthz", "/predict/embedding", "/tasks"])
def test_pages_of_other_sites_are_refused(service: Harness, origin: str, path: str) -> None:
    method = "POST" if path.startswith("/predict") else "GET"
    for asked in (method, "OPTIONS"):
        answer = service.http.request(asked, path, headers={"Origin": origin}, json=SENTENCE)
        assert_problem(answer, 403, "cross_origin", "is not this service")
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_a_page_of_our_own_may_ask(service: Harness) -> None:
    for origin, host in (("http://localhost", "localhost"), ("https://127.0.0.1:8000", "127.0.0.1:8000")):
        assert service.http.get("/tasks", headers={"Origin": origin, "Host": host}).status_code == 200


def test_every_answer_has_the_security_headers(service: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [service.http.request(method, path) for method, path in (*CALLS, ("GET", "/none"), ("GET", "/healthz"))]
    answers.append(service.http.get("/tasks", headers={"Origin": "http://evil.example"}))
    monkeypatch.setattr(Registry, "tasks", lambda self: 1 / 0)
    answers.append(service.http.get("/tasks"))
    assert {answer.status_code for answer in answers} >= {200, 403, 404, 415, 422, 500}
    for answer in answers:
        assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS


def test_the_page_of_the_api_runs_nothing_and_asks_no_other_host(service: Harness) -> None:
    page = service.http.get("/docs")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "unsafe" not in policy
    assert "<script" not in page.text
    assert "//" not in page.text
    for _, path in CALLS:
        assert path.replace("mood", "{task}").replace("versions/1", "versions/{version}") in page.text
    assert "a key of scope upload" in page.text


def test_a_service_that_stops_refuses_new_work_and_closes(service: Harness) -> None:
    service.services.lifecycle.stopping = True
    for method, path in CALLS.keys() - {("GET", "/metrics")}:
        answer = service.http.request(method, path)
        assert_refused(answer, 503, "stopping", "takes no new work")
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.headers["Connection"] == "close"
    assert_problem(service.http.get("/readyz"), 503, "not_ready", "stopping")
    for path in ("/healthz", "/metrics"):
        answer = service.http.get(path)
        assert (answer.status_code, answer.headers["Connection"]) == (200, "close")


@pytest.mark.parametrize("asked", [True, False])
def test_a_route_knows_who_calls(kept: Kept, asked: bool) -> None:
    async def tell(scope: Connection, receive: Receive, send: Send) -> None:
        await JSONResponse(Request(scope).state.caller)(scope, receive, send)

    services = kept.service.services if asked else replace(kept.service.services, keyring=None)
    http = TestClient(Guard(tell, services), "http://localhost")
    answer = http.get("/tasks", headers={"Authorization": f"Bearer {kept.secrets['upload']}"})
    assert answer.json() == ("upload" if asked else "-")
    assert http.get("/healthz").json() == "-"


def test_the_service_follows_the_file_of_its_keys(kept: Kept) -> None:
    secret = kept.file.add("another", ["predict"], None)
    give_up = monotonic() + PATIENCE
    while kept.call("GET", "/tasks", secret).status_code == 401:
        assert monotonic() < give_up


def test_a_missing_file_of_keys_ends_the_start(tmp_path: Path, tiny_base: BaseModel) -> None:
    with (
        pytest.raises(BadKeys, match="No such file"),
        harness(tmp_path / "store", tiny_base, keys_file=str(tmp_path / "none.json")),
    ):
        pass
