"""Many callers at once, and callers and engines that fail: nobody harms a neighbour, and every request ends."""

import threading
from asyncio import Event
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch

from service.adapters.file import write_adapter
from service.adapters.manifest import KindName
from service.engine.base_model import BaseModel
from service.engine.engine import Engine, Row
from service.tasks import Floats
from tests.api.gate import Gate, call_in_the_loop, queued, sample, wait_until
from tests.api.harness import Harness, assert_problem, formed, harness
from tests.tiny import KINDS, METHODS, make_adapter, make_manifest, make_tensors

TEXTS = ["good film", "the dog and the cat", "never again!", "a very large and very red book", "rain, sun", "x"]


@pytest.fixture
def mixed(service: Harness, tiny_base: BaseModel) -> Harness:
    """A service of several tasks of every kind and every method."""
    for seed, labels in enumerate([("no", "yes"), ("red", "green", "blue"), ("a", "b", "c", "d", "e")]):
        service.upload(f"labels-{seed}", make_adapter(tiny_base, labels=labels, seed=seed))
    for seed, (kind, method) in enumerate(zip(cycle(KINDS), METHODS.values(), strict=False), start=7):
        service.upload(f"{kind}-{seed}", make_adapter(tiny_base, kind=kind, method=method, seed=seed))
    return service


def numbers(prediction: Any) -> list[float]:
    """All that a prediction says, in an order that does not depend on it."""
    if "scores" in prediction:
        return [entry["score"] for entry in sorted(prediction["scores"], key=lambda entry: str(entry["label"]))]
    if "labels" in prediction:
        return [entry["score"] for entry in sorted(prediction["labels"], key=lambda entry: str(entry["label"]))]
    if "entities" in prediction:
        return [entry[part] for entry in prediction["entities"] for part in ("start", "end", "score")]
    if "answer" in prediction:
        return [prediction[part] for part in ("start", "end", "score")]
    return list(prediction.get("embedding") or [prediction["value"]])


def test_32_callers_who_share_batches_get_what_they_get_alone(
    mixed: Harness, callers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = mixed.tasks()
    tasks = list(facts)
    wanted = [
        (task, formed(facts[task], TEXTS[number % len(TEXTS)]))
        for number, task in enumerate(tasks[number % len(tasks)] for number in range(32))
    ]
    alone = [mixed.predict(task, given).json() for task, given in wanted]
    tokens = [answer["usage"]["tokens"] for answer in alone]
    before = sample(mixed, "rootstock_batch_rows_count")
    gate = Gate(Engine.run)
    monkeypatch.setattr(Engine, "run", lambda engine, rows: gate.run(engine, rows))

    together = [callers.submit(mixed.answers, task, given) for task, given in wanted[:1]]
    gate.wait_for_a_batch()
    together += [callers.submit(mixed.answers, task, given) for task, given in wanted[1:]]
    wait_until(lambda: queued(mixed) == sum(tokens[1:]))
    gate.open()

    for one, future in zip(alone, together, strict=True):
        expected = numbers(one["predictions"][0])
        np.testing.assert_allclose(numbers(future.result()[0]), expected, rtol=1e-4, atol=1e-4)
    assert sample(mixed, "rootstock_batch_rows_count") - before == 2  # one alone, then 31 in one batch


def test_32_callers_who_come_and_go_get_what_they_get_alone(mixed: Harness, callers: ThreadPoolExecutor) -> None:
    facts = mixed.tasks()
    tasks = list(facts)
    alone = {
        (task, text): numbers(mixed.answers(task, formed(facts[task], text))[0]) for task in tasks for text in TEXTS
    }

    def call(caller: int) -> None:
        for turn in range(6):
            task, first = tasks[(caller + turn) % len(tasks)], caller % len(TEXTS)
            texts = [*TEXTS[first:], *TEXTS[:first]][: 1 + turn % 3]
            inputs = [formed(facts[task], text) for text in texts]
            for text, prediction in zip(texts, mixed.answers(task, inputs), strict=True):
                np.testing.assert_allclose(numbers(prediction), alone[task, text], rtol=1e-4, atol=1e-4)

    for future in [callers.submit(call, caller) for caller in range(32)]:
        future.result()


def test_uploads_among_requests_fail_none_and_are_served_at_once(
    service: Harness, tiny_base: BaseModel, callers: ThreadPoolExecutor
) -> None:
    versions = range(1, 6)
    expected = {}
    for version in versions:  # what each version answers, asked for while it is all alone
        service.upload("trial", make_adapter(tiny_base, seed=version))
        expected[version] = numbers(service.answers("trial", TEXTS[0])[0])
    service.upload("mood", make_adapter(tiny_base, seed=1))
    done = threading.Event()

    def call() -> set[int]:
        seen = set()
        while not done.is_set():
            response = service.predict("mood", TEXTS[0])
            assert response.status_code == 200, response.text
            answer = response.json()
            np.testing.assert_allclose(
                numbers(answer["predictions"][0]), expected[answer["version"]], rtol=1e-4, atol=1e-4
            )
            seen.add(answer["version"])
        return seen

    calling = [callers.submit(call) for _ in range(8)]
    try:
        for version in versions[1:]:
            assert service.upload("mood", make_adapter(tiny_base, seed=version)) == version
            assert service.predict("mood", TEXTS[0]).json()["version"] == version
    finally:
        done.set()
    assert set.union(*(future.result() for future in calling)) <= set(versions)


def test_each_answer_is_of_the_version_that_it_names_while_versions_are_swapped(
    service: Harness, tiny_base: BaseModel, callers: ThreadPoolExecutor
) -> None:
    for seed in (1, 2, 3):
        service.upload("mood", make_adapter(tiny_base, seed=seed))
    known = {version: numbers(service.answers("mood", TEXTS[0], version=version)[0]) for version in (1, 2, 3)}
    done = threading.Event()

    def call() -> int:
        asked = 0
        while not done.is_set() or not asked:
            response = service.predict("mood", TEXTS[0])
            answer = response.json()
            assert int(response.headers["Rootstock-Version"]) == answer["version"]
            np.testing.assert_allclose(numbers(answer["predictions"][0]), known[answer["version"]], atol=1e-4)
            asked += 1
        return asked

    calling = [callers.submit(call) for _ in range(4)]
    try:
        for swap in range(30):
            version = 1 + swap % 3
            assert service.http.post("/adapters/mood/activate", json={"version": version}).status_code == 200
            assert service.predict("mood", TEXTS[0]).json()["version"] == version
    finally:
        done.set()
    assert all(future.result() > 0 for future in calling)
    swaps = [entry["after"] for entry in service.get("/adapters/mood/log")["entries"][3:]]
    assert swaps == [1 + swap % 3 for swap in range(30)]


def test_requests_in_flight_keep_the_version_they_came_for(
    service: Harness, tiny_base: BaseModel, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    gate.open()  # uploads are proved by the engine
    service.upload("mood", make_adapter(tiny_base, seed=1))
    service.upload("mood", make_adapter(tiny_base, seed=2), activate=False)
    gate.close()
    first = callers.submit(service.predict, "mood", "good film")
    gate.wait_for_a_batch()
    second = callers.submit(service.predict, "mood", "good film")
    wait_until(lambda: queued(service) > 0)
    assert service.http.post("/adapters/mood/activate", json={"version": 2}).status_code == 200
    deleting = callers.submit(service.http.delete, "/adapters/mood/versions/1")
    wait_until(lambda: len(service.get("/adapters/mood")["versions"]) == 1)
    assert not deleting.done()
    gate.open()
    assert [first.result().json()["version"], second.result().json()["version"]] == [1, 1]
    assert deleting.result().status_code == 204
    assert service.predict("mood", "good film").json()["version"] == 2


@pytest.mark.parametrize(
    ("method", "path"), [("DELETE", "/adapters/mood"), ("POST", "/v2/repository/models/mood/unload")]
)
def test_what_is_unloaded_has_left_the_memory_once_that_is_answered(
    service: Harness, tiny_base: BaseModel, gate: Gate, callers: ThreadPoolExecutor, method: str, path: str
) -> None:
    gate.open()
    service.upload("mood", make_adapter(tiny_base))
    before = service.answers("mood", "good film")
    memory = ref(service.services.registry.resident("mood"))
    gate.close()
    under_way = callers.submit(service.answers, "mood", "good film")
    gate.wait_for_a_batch()
    unloading = callers.submit(service.http.request, method, path)
    wait_until(lambda: not [*service.services.registry.residents()])
    assert not unloading.done()
    assert memory() is not None
    gate.open()
    assert unloading.result().is_success
    assert memory() is None
    assert under_way.result() == before


def test_unloading_waits_for_no_longer_than_the_settings_say(
    tmp_path: Path, tiny_base: BaseModel, gate: Gate, callers: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    gate.open()
    with harness(tmp_path / "store", tiny_base, unload_seconds=0.01) as service:
        service.upload("mood", make_adapter(tiny_base))
        gate.close()
        under_way = callers.submit(service.predict, "mood", "good film")
        gate.wait_for_a_batch()
        assert service.http.delete("/adapters/mood").status_code == 204
        assert "task mood: what is deleted or unloaded still answers rows that were admitted on it" in caplog.text
        gate.open()
        assert under_way.result().json()["version"] == 1


def test_a_fault_of_the_engine_ends_its_request_and_no_other(
    service: Harness, callers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(engine: Engine, rows: Sequence[Row]) -> list[Floats]:
        raise RuntimeError("the engine is out of order")

    before = service.answers("embedding", "good film")
    with monkeypatch.context() as patch:
        gate = Gate(fail)
        patch.setattr(Engine, "run", lambda engine, rows: gate.run(engine, rows))
        failing = callers.submit(service.predict, "embedding", "good film")
        gate.wait_for_a_batch()
        waiting = callers.submit(service.answers, "embedding", "good film")
        wait_until(lambda: queued(service) > 0)
        patch.undo()
        gate.open()
        assert_problem(failing.result(), 500, "engine_fault", "the batch that held this request: RuntimeError")
        assert "out of order" not in failing.result().text  # that is for the log
    assert waiting.result() == service.answers("embedding", "good film") == before
    assert sample(service, "rootstock_engine_faults_total") == 1
    assert sample(service, "rootstock_requests_total", task="embedding", outcome="engine_fault") == 1
    assert service.http.get("/healthz").status_code == 200


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "embedding"])
def test_an_answer_that_is_no_number_is_a_fault(tmp_path: Path, tiny_base: BaseModel, kind: KindName) -> None:
    manifest = make_manifest(tiny_base, kind=kind)
    tensors = make_tensors(tiny_base, manifest)
    tensors["head.weight"] = torch.full_like(tensors["head.weight"], 3e38)  # finite, until they are added up
    data = write_adapter(manifest, tensors, torch.float32)
    (tmp_path / "big-1.safetensors").write_bytes(data)  # no upload could bring it here
    with harness(tmp_path, tiny_base) as service:
        assert_problem(service.put("bad", data), 422, "bad_adapter", "its outputs are not finite numbers")
        service.upload("mood", make_adapter(tiny_base))  # the bad one is among the strangers that it is proved with
        before = service.answers("mood", "good film")
        response = service.predict("big", formed(service.tasks()["big"], "good film"))
        assert_problem(response, 500, "engine_fault", "task big version 1 put out a value that is not a finite number")
        assert service.answers("mood", "good film") == before


def test_a_full_queue_refuses_with_the_time_to_come_back(
    tmp_path: Path, tiny_base: BaseModel, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    with harness(tmp_path, tiny_base, queue_tokens=20) as service:
        running = callers.submit(service.answers, "embedding", "good film")
        gate.wait_for_a_batch()
        waiting = [callers.submit(service.answers, "embedding", "good " * 3) for _ in range(2)]
        wait_until(lambda: queued(service) == 10)
        refused = service.predict("embedding", "good film")
        assert_problem(refused, 503, "overloaded", "10 tokens are waiting; there is room for 20, and each task has its")
        assert int(refused.headers["Retry-After"]) >= 1
        gate.open()
        assert [len(future.result()) for future in (running, *waiting)] == [1, 1, 1]
        assert service.answers("embedding", "good film") == running.result()
        assert sample(service, "rootstock_requests_total", task="embedding", outcome="overloaded") == 1


def test_a_caller_who_gives_up_costs_nobody_anything(service: Harness, gate: Gate, callers: ThreadPoolExecutor) -> None:
    running = callers.submit(service.answers, "embedding", "good film")
    gate.wait_for_a_batch()
    gone = call_in_the_loop(service, b'{"inputs": ["gone", "gone"]}')
    wait_until(lambda: queued(service) > 0)
    waiting = callers.submit(service.answers, "embedding", "never again")
    gone.cancel()
    wait_until(lambda: sample(service, "rootstock_requests_total", task="embedding", outcome="cancelled") == 1)
    gate.open()
    assert len(running.result()) == len(waiting.result()) == 1
    assert gate.rows == 2  # what nobody waits for is not run
    assert queued(service) == 0
    assert service.answers("embedding", "good film") == running.result()


def test_the_work_of_a_caller_who_left_is_given_up(service: Harness, gate: Gate, callers: ThreadPoolExecutor) -> None:
    running = callers.submit(service.answers, "embedding", "good film")
    gate.wait_for_a_batch()
    gone = Event()
    call_in_the_loop(service, b'{"inputs": ["gone", "gone"]}', gone)
    wait_until(lambda: queued(service) > 0)
    assert service.http.portal is not None
    service.http.portal.call(gone.set)
    wait_until(lambda: sample(service, "rootstock_requests_total", task="embedding", outcome="caller_left") == 1)
    gate.open()
    assert len(running.result()) == 1
    assert gate.rows == 1
    assert service.answers("embedding", "good film") == running.result()


def test_a_caller_who_gives_up_while_the_engine_works_harms_no_batch(
    service: Harness, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    gone = call_in_the_loop(service, b'{"inputs": "gone"}')
    gate.wait_for_a_batch()
    waiting = callers.submit(service.answers, "embedding", "never again")
    gone.cancel()
    gate.open()
    assert len(waiting.result()) == 1
    assert sample(service, "rootstock_engine_faults_total") == 0


def test_a_stopping_service_answers_what_it_has_and_refuses_the_rest(
    tmp_path: Path, tiny_base: BaseModel, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    with harness(tmp_path, tiny_base, queue_tokens=1) as service:
        running = callers.submit(service.answers, "embedding", "good film")
        gate.wait_for_a_batch()
        waiting = callers.submit(service.answers, "embedding", "never again")
        wait_until(lambda: queued(service) > 0)
        stopping = callers.submit(service.services.runner.stop)
        wait_until(lambda: service.predict("embedding", "x").json()["code"] == "stopping")  # before: overloaded
        refused = service.predict("embedding", "x")
        assert_problem(refused, 503, "stopping", "takes no new work")
        assert int(refused.headers["Retry-After"]) >= 1
        gate.open()
        stopping.result()
        assert len(running.result()) == len(waiting.result()) == 1


def test_a_service_that_cannot_wait_ends_what_it_has(service: Harness, gate: Gate, callers: ThreadPoolExecutor) -> None:
    calling = [callers.submit(service.predict, "embedding", "good film")]
    gate.wait_for_a_batch()
    calling.append(callers.submit(service.predict, "embedding", "never again"))
    wait_until(lambda: queued(service) > 0)
    service.services.runner.stop(timeout=0)
    for call in calling:
        assert_problem(call.result(), 503, "stopping", "the service stopped before")
