"""A gradual release: the shadow never answers and harms no answer, a share is sticky, and each step is one change."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from httpx2 import Response

from service.adapters.file import digest
from service.adapters.manifest import KindName
from service.api import shadows
from service.engine.base_model import BaseModel
from service.engine.engine import Engine, Row
from service.registry.release import Candidate
from service.tasks import Floats
from tests.api.harness import Harness, assert_problem, harness
from tests.api.test_operations import samples
from tests.tiny import KINDS, make_adapter

PATIENCE = 30.0  # seconds; only a failing test waits so long
TEXTS = [f"the film was {word} {number}" for word in ("good", "bad", "great", "awful") for number in range(25)]

Make = Callable[[int], bytes]


@pytest.fixture
def make(tiny_base: BaseModel) -> Make:
    """An adapter file by its seed."""
    return lambda seed: make_adapter(tiny_base, seed=seed)


@pytest.fixture
def mood(service: Harness, make: Make) -> Harness:
    """A service whose task `mood` has version 1 active, and versions 2 and 3 beside it."""
    for seed in (1, 2, 3):
        service.upload("mood", make(seed), activate=seed == 1)
    return service


def nominate(service: Harness, version: int, mode: str, share: float | None = None, task: str = "mood") -> Response:
    body = {"version": version, "mode": mode} | ({} if share is None else {"share": share})
    return service.http.post(f"/adapters/{task}/candidate", json=body)


def start(service: Harness, version: int, mode: str, share: float | None = None, task: str = "mood") -> Any:
    """The task as it then is, of a call that must be taken."""
    response = nominate(service, version, mode, share, task)
    assert response.status_code == 200, response.text
    return response.json()


def ask(service: Harness, text: str, key: str | None = None, task: str = "mood") -> int:
    """The version that answers."""
    headers = {} if key is None else {"Rootstock-Sticky-Key": key}
    response = service.http.post(f"/predict/{task}", json={"inputs": text}, headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["Rootstock-Version"] == str(response.json()["version"])
    version: int = response.json()["version"]
    return version


def settled(service: Harness, inputs: int, task: str = "mood") -> Any:
    """What is seen of the candidate, when so many inputs have come to something."""
    give_up = monotonic() + PATIENCE
    while monotonic() < give_up:
        seen = service.get(f"/adapters/{task}")["candidate"]
        if seen["compared"] + seen["failed"] + seen["dropped"] == inputs:
            return seen
        sleep(0.005)
    raise AssertionError(seen)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Digests whose rows the engine fails on."""
    digests: set[str] = set()
    run = Engine.run

    def run_or_fail(engine: Engine, rows: Sequence[Row]) -> list[Floats]:
        if any(row.resident.digest in digests for row in rows):
            raise RuntimeError("made to fail")
        return run(engine, rows)

    monkeypatch.setattr(Engine, "run", run_or_fail)
    return digests


def test_a_shadow_never_answers(mood: Harness, make: Make) -> None:
    before = mood.answers("mood", TEXTS)
    start(mood, 2, "shadow")
    assert {ask(mood, text, key) for text in TEXTS[:10] for key in (None, "us")} == {1}
    response = mood.predict("mood", TEXTS)
    assert response.json()["predictions"] == before
    assert response.headers["Rootstock-Digest"] == digest(make(1))


def test_agreement_is_that_of_the_two_versions(mood: Harness) -> None:
    labels = [[one["label"] for one in mood.answers("mood", TEXTS, version=version)] for version in (1, 2)]
    right = sum(one == other for one, other in zip(*labels, strict=True))
    assert 0 < right < len(TEXTS)
    start(mood, 2, "shadow")
    mood.predict("mood", TEXTS)
    seen = settled(mood, len(TEXTS))
    assert (seen["compared"], seen["agreed"]) == (len(TEXTS), right)
    assert seen["agreement"] == right / len(TEXTS)


def test_requests_that_name_a_version_are_not_looked_at(mood: Harness) -> None:
    start(mood, 2, "share", 1.0)
    assert mood.predict("mood", "good film", version=1).json()["version"] == 1
    assert mood.predict("mood", "good film", version=2).json()["version"] == 2
    seen = mood.get("/adapters/mood")["candidate"]["seen"]
    assert [one["requests"] for one in seen.values()] == [0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_compared_as_it_can_be(service: Harness, tiny_base: BaseModel, kind: KindName) -> None:
    """A version that answers alike agrees on all; whether vectors are the same is no question of yes or no."""
    inputs: list[Any] = TEXTS[:7]
    if kind == "answer":
        inputs = [{"question": "this is", "context": text} for text in inputs]
    for number, description in enumerate(("one", "other")):
        service.upload("it", make_adapter(tiny_base, kind=kind, description=description), activate=number == 0)
    start(service, 2, "shadow", task="it")
    service.answers("it", inputs)
    give_up = monotonic() + PATIENCE
    while service.get("/adapters/it")["candidate"]["seen"]["candidate"]["requests"] == 0:
        assert monotonic() < give_up
    seen = service.get("/adapters/it")["candidate"]
    assert (seen["compared"], seen["agreement"]) == ((0, None) if kind == "embedding" else (len(inputs), 1.0))


def test_an_answer_does_not_wait_for_its_shadow(mood: Harness, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    start(mood, 2, "shadow")
    held, run = threading.Event(), Engine.run

    def hold_shadows(engine: Engine, rows: Sequence[Row]) -> list[Floats]:
        if any(row.resident.version == 2 for row in rows):
            assert held.wait(PATIENCE)
        return run(engine, rows)

    monkeypatch.setattr(Engine, "run", hold_shadows)
    try:
        assert ask(mood, "good film") == 1
        assert mood.get("/adapters/mood")["candidate"]["compared"] == 0
    finally:
        held.set()
    assert settled(mood, 1)["compared"] == 1


def test_an_answer_does_not_fail_with_its_shadow(mood: Harness, make: Make, failing: set[str]) -> None:
    start(mood, 2, "shadow")
    failing.add(digest(make(2)))
    for number in range(5):
        assert ask(mood, "good film") == 1
        settled(mood, number + 1)
    seen = mood.get("/adapters/mood")["candidate"]
    assert (seen["failed"], seen["compared"], seen["dropped"]) == (5, 0, 0)
    assert (seen["seen"]["candidate"]["failed"], seen["seen"]["active"]["failed"]) == (5, 0)


def test_a_candidate_that_fails_is_counted_where_it_answers(mood: Harness, make: Make, failing: set[str]) -> None:
    start(mood, 2, "share", 1.0)
    failing.add(digest(make(2)))
    assert_problem(mood.predict("mood", "good film"), 500, "engine_fault", "RuntimeError")
    seen = mood.get("/adapters/mood")["candidate"]["seen"]
    assert seen["candidate"] | {"latency": None} == {"version": 2, "requests": 1, "failed": 1, "latency": None}


def test_under_overload_shadows_go_first_and_are_counted(mood: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    start(mood, 2, "shadow")
    monkeypatch.setattr(shadows, "MOST", 0)
    assert mood.predict("mood", TEXTS).status_code == 200
    assert settled(mood, len(TEXTS))["dropped"] == len(TEXTS)


def test_a_full_queue_drops_shadows_and_no_answer(
    tmp_path: Path, tiny_base: BaseModel, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is held while many ask: all are answered, and what was not compared is counted."""
    held, run = threading.Event(), Engine.run

    def hold(engine: Engine, rows: Sequence[Row]) -> list[Floats]:
        assert held.wait(PATIENCE)
        return run(engine, rows)

    with harness(tmp_path, tiny_base, batch_tokens=8) as service, ThreadPoolExecutor(20) as callers:
        for seed in (1, 2):
            service.upload("mood", make(seed), activate=seed == 1)
        start(service, 2, "shadow")
        monkeypatch.setattr(Engine, "run", hold)
        asked = [callers.submit(ask, service, text) for text in TEXTS[:20]]
        give_up = monotonic() + PATIENCE
        while samples(service)["rootstock_queued_tokens",] < 100:  # of 160: all but those in the batch
            assert monotonic() < give_up
        held.set()
        assert {one.result() for one in asked} == {1}
        seen = settled(service, 20)
        assert seen["failed"] == 0
        assert seen["dropped"] > 0


def test_a_shadow_costs_nothing_of_the_tasks_quota(tmp_path: Path, tiny_base: BaseModel, make: Make) -> None:
    with harness(tmp_path, tiny_base, quotas="mood=1000") as service:
        for seed in (1, 2):
            service.upload("mood", make(seed), activate=seed == 1)
        start(service, 2, "shadow")
        assert service.predict("mood", TEXTS * 5).status_code == 200  # more than a second's, so it is overdrawn
        assert_problem(service.predict("mood", "good film"), 429, "over_quota", "task mood has had")
        assert settled(service, 5 * len(TEXTS))["compared"] == 5 * len(TEXTS)


def test_a_share_is_sticky_by_key_and_without_one_by_the_input(mood: Harness) -> None:
    start(mood, 2, "share", 0.5)
    by_key = {f"user-{number}": ask(mood, "good film", f"user-{number}") for number in range(60)}
    by_text = {text: ask(mood, text) for text in TEXTS[:60]}
    assert set(by_key.values()) == set(by_text.values()) == {1, 2}
    for number, (key, version) in enumerate(by_key.items()):
        assert ask(mood, TEXTS[number], key) == version
    for text, version in by_text.items():
        assert ask(mood, text) == version
    wanted = Candidate(version=2, mode="share", share=0.5)
    assert by_key == {key: 2 if wanted.takes("mood", key) else 1 for key in by_key}


@pytest.mark.parametrize("key", ["", "x" * 257])
def test_a_key_that_is_no_key_is_refused(mood: Harness, key: str) -> None:
    headers = {"Rootstock-Sticky-Key": key}
    response = mood.http.post("/predict/mood", json={"inputs": "good film"}, headers=headers)
    assert_problem(response, 422, "bad_input", "Rootstock-Sticky-Key")


def test_a_larger_share_takes_nobody_back(mood: Harness) -> None:
    taken: set[str] = set()
    for share in (0.0, 0.2, 0.5, 1.0):
        start(mood, 2, "share", share)
        now = {text for text in TEXTS[:50] if ask(mood, text) == 2}
        assert taken <= now
        taken = now
    assert len(taken) == 50


def test_every_form_of_a_request_goes_the_same_way(mood: Harness) -> None:
    """Alone, among other tasks, as an object, and in another protocol."""
    start(mood, 2, "share", 0.5)
    versions = set()
    for text in TEXTS[:20]:
        version = ask(mood, text)
        versions.add(version)
        assert mood.predict("mood", {"text": text}).json()["version"] == version
        many = mood.http.post("/predict", json={"tasks": ["embedding", "mood"], "inputs": text})
        assert [one["version"] for one in many.json()["answers"]] == [0, version]
        tensors = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}]}
        inferred = mood.http.post("/v2/models/mood/infer", json=tensors)
        assert inferred.json()["model_version"] == inferred.headers["Rootstock-Version"] == str(version)
        keyed = [ask(mood, other, text) for other in TEXTS[:3]]
        keyed_tensors = mood.http.post("/v2/models/mood/infer", json=tensors, headers={"Rootstock-Sticky-Key": text})
        assert {*keyed} == {int(keyed_tensors.json()["model_version"])}
    assert versions == {1, 2}


def test_where_the_candidate_answers_the_active_version_is_its_shadow(mood: Harness) -> None:
    start(mood, 2, "share", 0.5)
    versions = [ask(mood, text) for text in TEXTS]
    seen = settled(mood, versions.count(2))
    assert seen["compared"] == versions.count(2) == seen["seen"]["candidate"]["requests"]
    assert seen["seen"]["active"]["requests"] == len(TEXTS)
    for one in seen["seen"].values():
        assert 0 < one["latency"]["p50"] <= one["latency"]["p95"]


def test_a_candidate_whose_file_is_bad_turns_nobody_away(
    mood: Harness, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(mood, 2, "share", 1.0)
    mood.services.registry.release("mood")
    path = mood.store / "mood-2.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    assert {ask(mood, text) for text in TEXTS[:5]} == {1}
    found = mood.get("/adapters/mood")
    assert [one["state"] for one in found["versions"]] == ["active", "refused", "inactive"]
    assert found["candidate"]["seen"]["candidate"]["failed"] == 5
    assert_problem(mood.http.post("/adapters/mood/candidate/promote"), 422, "bad_adapter", "version 2 cannot be served")
    assert mood.http.delete("/adapters/mood/candidate").status_code == 204


def test_one_call_promotes(mood: Harness, make: Make) -> None:
    start(mood, 2, "share", 0.1)
    response = mood.http.post("/adapters/mood/candidate/promote")
    assert (response.status_code, response.json()["version"], response.json()["state"]) == (200, 2, "active")
    assert {ask(mood, text) for text in TEXTS[:20]} == {2}
    found = mood.get("/adapters/mood")
    assert (found["active"], found["candidate"]) == (2, None)


def test_one_call_abandons(mood: Harness) -> None:
    start(mood, 2, "share", 0.9)
    assert mood.http.delete("/adapters/mood/candidate").status_code == 204
    assert {ask(mood, text) for text in TEXTS[:20]} == {1}
    found = mood.get("/adapters/mood")
    assert (found["active"], found["candidate"]) == (1, None)
    assert [one["state"] for one in found["versions"]] == ["active", "inactive", "inactive"]


def test_a_release_survives_a_restart(tmp_path: Path, tiny_base: BaseModel, make: Make) -> None:
    with harness(tmp_path, tiny_base) as service:
        for seed in (1, 2):
            service.upload("mood", make(seed), activate=seed == 1)
        start(service, 2, "share", 0.5)
        before = [ask(service, text) for text in TEXTS]
    with harness(tmp_path, tiny_base) as service:
        assert [ask(service, text) for text in TEXTS] == before
        candidate = service.get("/adapters/mood")["candidate"]
        assert [candidate[name] for name in ("version", "mode", "share")] == [2, "share", 0.5]
        service.http.post("/adapters/mood/candidate/promote")
    with harness(tmp_path, tiny_base) as service:
        assert {ask(service, text) for text in TEXTS} == {2}
        assert service.get("/adapters/mood")["candidate"] is None
        start(service, 1, "shadow")
        service.http.delete("/adapters/mood/candidate")
    with harness(tmp_path, tiny_base) as service:
        assert {ask(service, text) for text in TEXTS} == {2}
        assert service.get("/adapters/mood")["candidate"] is None


def test_services_on_one_store_follow_a_release(tmp_path: Path, tiny_base: BaseModel, make: Make) -> None:
    with harness(tmp_path, tiny_base) as one, harness(tmp_path, tiny_base) as other:
        for seed in (1, 2):
            one.upload("mood", make(seed), activate=seed == 1)
        start(one, 2, "share", 0.5)
        other.services.registry.follow()
        versions = [ask(one, text) for text in TEXTS[:40]]
        assert set(versions) == {1, 2}
        assert [ask(other, text) for text in TEXTS[:40]] == versions
        assert other.http.post("/adapters/mood/candidate/promote").status_code == 200
        one.services.registry.follow()
        assert {ask(one, text) for text in TEXTS[:40]} == {2}
        assert one.get("/adapters/mood") == other.get("/adapters/mood")
        assert_problem(one.http.delete("/adapters/mood/candidate"), 404, "unknown_candidate", "has no candidate")


def test_the_log_tells_of_a_release(mood: Harness) -> None:
    start(mood, 2, "shadow")
    start(mood, 2, "shadow", 1.0)  # nothing changes
    start(mood, 2, "share", 0.25)
    mood.http.delete("/adapters/mood/candidate")
    start(mood, 3, "share", 0.0)
    mood.http.post("/adapters/mood/candidate/promote")
    entries = mood.get("/adapters/mood/log")["entries"][3:]
    parts = ("did", "version", "before", "after", "candidate")
    assert [tuple(entry[part] for part in parts) for entry in entries] == [
        ("nominate", 2, 1, 1, {"version": 2, "mode": "shadow", "share": 1.0}),
        ("nominate", 2, 1, 1, {"version": 2, "mode": "share", "share": 0.25}),
        ("abandon", 2, 1, 1, None),
        ("nominate", 3, 1, 1, {"version": 3, "mode": "share", "share": 0.0}),
        ("promote", 3, 1, 3, None),
    ]
    assert {entry["by"] for entry in entries} == {"testclient"}


def test_a_candidate_is_proved_before_it_takes_traffic(tmp_path: Path, tiny_base: BaseModel, make: Make) -> None:
    """A file that was put into the store by hand, which answers as the bare base does."""
    for seed in (1, 2):
        (tmp_path / f"mood-{seed}.safetensors").write_bytes(make_adapter(tiny_base, seed=seed, scale=0.3 * (seed - 1)))
    with harness(tmp_path, tiny_base) as service:
        before = service.state()
        assert_problem(nominate(service, 1, "share", 0.5), 422, "bad_adapter", "bare base")
        assert service.state() == before
        service.upload("mood", make(3))
        start(service, 2, "shadow")
        entry = service.get("/adapters/mood/log")["entries"][-1]
        assert (entry["did"], entry["proof"]["precision"]) == ("nominate", "float32")


def test_other_activations_leave_the_candidate_unless_it_is_the_one(mood: Harness, make: Make) -> None:
    start(mood, 2, "shadow", 0.5)
    mood.http.post("/adapters/mood/activate", json={"version": 3})
    mood.upload("mood", make(4))
    found = mood.get("/adapters/mood")
    assert (found["active"], found["candidate"]["version"], found["candidate"]["share"]) == (4, 2, 0.5)
    assert [one["state"] for one in found["versions"]] == ["inactive", "candidate", "inactive", "active"]
    mood.http.post("/adapters/mood/activate", json={"version": 2})
    found = mood.get("/adapters/mood")
    assert (found["active"], found["candidate"]) == (2, None)


def test_what_is_seen_belongs_to_two_versions(mood: Harness) -> None:
    """Another share is another step of the same release; another active version is another comparison."""
    start(mood, 2, "shadow")
    ask(mood, "good film")
    since = settled(mood, 1)["since"]
    seen = start(mood, 2, "share", 0.0)["candidate"]
    assert (seen["since"], seen["compared"]) == (since, 1)
    mood.http.post("/adapters/mood/activate", json={"version": 3})
    seen = mood.get("/adapters/mood")["candidate"]
    assert (seen["since"] > since, seen["compared"], seen["seen"]["active"]["requests"]) == (True, 0, 0)


@pytest.mark.parametrize(
    ("body", "status", "code", "cause"),
    [
        ({"version": 1, "mode": "shadow"}, 409, "conflict", "version 1 is the active one"),
        ({"version": 3, "mode": "shadow"}, 409, "conflict", "version 2 is the candidate"),
        ({"version": 9, "mode": "shadow"}, 404, "unknown_version", "no version 9"),
        ({"version": 2, "mode": "share"}, 422, "bad_input", "needs a share"),
        ({"version": 2, "mode": "share", "share": 1.01}, 422, "bad_input", "share"),
        ({"version": 2, "mode": "share", "share": -0.01}, 422, "bad_input", "share"),
        ({"version": 2, "mode": "canary", "share": 0.1}, 422, "bad_input", "mode"),
        ({"version": 2}, 422, "bad_input", "mode"),
        ({"mode": "shadow"}, 422, "bad_input", "version"),
        ({"version": 2, "mode": "shadow", "more": 1}, 422, "bad_input", "more"),
    ],
)
def test_a_refused_start_changes_nothing(
    mood: Harness, body: dict[str, Any], status: int, code: str, cause: str
) -> None:
    start(mood, 2, "share", 0.5)
    before, log = mood.state(), mood.get("/adapters/mood/log")
    assert_problem(mood.http.post("/adapters/mood/candidate", json=body), status, code, cause)
    assert unseen(mood.state()) == unseen(before)
    assert mood.get("/adapters/mood/log") == log


def unseen(state: dict[str, Any]) -> dict[str, Any]:
    """Without what is counted of requests that the comparison itself made."""
    for versions in state["versions"].values():
        versions["candidate"] = {name: versions["candidate"][name] for name in ("version", "mode", "share")}
    return state


def test_a_candidate_is_not_deleted(mood: Harness) -> None:
    start(mood, 2, "shadow")
    response = mood.http.delete("/adapters/mood/versions/2")
    assert_problem(response, 409, "conflict", "version 2 is the candidate of task mood; promote or abandon it first")
    assert mood.http.delete("/adapters/mood/versions/3").status_code == 204
    assert mood.get("/adapters/mood")["candidate"]["version"] == 2


def test_a_task_without_a_candidate_has_nothing_to_end(mood: Harness) -> None:
    before = mood.state()
    for response in (
        mood.http.post("/adapters/mood/candidate/promote"),
        mood.http.delete("/adapters/mood/candidate"),
    ):
        assert_problem(response, 404, "unknown_candidate", "task mood has no candidate")
    assert_problem(mood.http.delete("/adapters/nope/candidate"), 404, "unknown_task", "'nope'")
    assert_problem(mood.http.delete("/adapters/embedding/candidate"), 404, "unknown_task", "'embedding'")
    assert mood.state() == before


def test_a_candidate_stands_beside_an_active_version(service: Harness, make: Make) -> None:
    service.upload("mood", make(1), activate=False)
    assert_problem(nominate(service, 1, "shadow"), 404, "unknown_task", "no active version")


def test_a_candidate_is_of_the_active_versions_kind(mood: Harness, tiny_base: BaseModel) -> None:
    mood.upload("mood", make_adapter(tiny_base, pair=True), activate=False)
    number = make_adapter(tiny_base, kind="regression")
    mood.upload("mood", number, activate=False)
    before = mood.state()
    assert_problem(nominate(mood, 4, "shadow"), 409, "conflict", "version 4 of task mood reads pairs of texts")
    assert_problem(nominate(mood, 5, "shadow"), 409, "conflict", "kind regression")
    assert mood.state() == before
    start(mood, 2, "shadow")
    before = mood.state()
    assert_problem(mood.http.post("/adapters/mood/activate", json={"version": 5}), 409, "conflict", "kind regression")
    assert_problem(mood.put("mood", make_adapter(tiny_base, kind="multilabel")), 409, "conflict", "kind multilabel")
    assert unseen(mood.state()) == unseen(before)


def test_a_retired_task_has_no_candidate(mood: Harness, make: Make) -> None:
    start(mood, 2, "shadow")
    assert mood.http.delete("/adapters/mood").status_code == 204
    assert mood.get("/adapters/mood")["candidate"] is None
    mood.upload("mood", make(1))
    assert mood.get("/adapters/mood")["candidate"] is None


def test_metrics_have_a_release_while_it_lasts(mood: Harness, make: Make) -> None:
    mood.upload("colour", make(5))
    for task in ("mood", "colour"):
        ask(mood, "good film", task=task)
    assert not released(mood)
    start(mood, 2, "shadow")
    mood.predict("mood", TEXTS)
    seen = settled(mood, len(TEXTS))
    found = released(mood)
    assert found["inputs_total", "agreed", "mood"] == seen["agreed"]
    assert found["inputs_total", "differed", "mood"] == seen["compared"] - seen["agreed"]
    assert found["seconds_count", "active", "mood"] == found["seconds_count", "candidate", "mood"] == 1
    mood.http.delete("/adapters/mood/candidate")
    assert not released(mood)


def released(service: Harness) -> dict[tuple[str, ...], float]:
    prefix = "rootstock_release_"
    return {
        (name.removeprefix(prefix), *labels): value
        for (name, *labels), value in samples(service).items()
        if name.startswith(prefix)
    }
