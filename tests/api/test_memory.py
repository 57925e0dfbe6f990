"""Where memory runs out: the request that asked for it hears of it, nobody else, and its place is free again."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from service.api import answering
from service.api.keys import Keyring, KeysFile
from service.engine.arranging import Arranger
from service.engine.base_model import BaseModel
from service.engine.engine import Engine, Row
from service.serving.runner import Runner
from service.tasks import Floats, read_for
from tests.api.gate import Gate, queued, sample, wait_until
from tests.api.harness import Harness, assert_problem, harness
from tests.api.test_overload import ROUTES, every_route
from tests.tiny import make_adapter

SHORT, LONG = "greedy", "greedy " * 1000  # the second is tokenised beside the event loop
OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
]


@pytest.fixture
def service(tmp_path: Path, tiny_base: BaseModel) -> Iterator[Harness]:
    """A service with one task beside the bare base; a quota and a place too few would show."""
    with harness(tmp_path, tiny_base, uploads=1, quotas="embedding=20") as service:
        service.upload("mood", make_adapter(tiny_base))
        yield service


def assert_as_before(service: Harness) -> None:
    """Alive, ready, and nothing held that was given out."""
    for path in ("/healthz", "/readyz", "/v2/health/ready"):
        assert service.http.get(path).status_code == 200
    for gauge in ("queued_tokens", "queued_jobs", "requests_under_way", "batch_running_seconds"):
        wait_until(lambda: sample(service, f"rootstock_{gauge}") == 0)  # noqa: B023
    assert not service.services.uploads.locked()
    assert service.answers("mood", "good film")


@pytest.fixture
def greedy_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a text that begins with the word takes more memory than there is."""

    def limited(manifest: Any, tokenizer: Any, inputs: Sequence[Any]) -> Any:
        if any(one.text.startswith(SHORT) for one in inputs):
            raise MemoryError
        return read_for(manifest, tokenizer, inputs)

    monkeypatch.setattr(answering, "read_for", limited)


@pytest.mark.usefixtures("greedy_tokenizer")
@pytest.mark.parametrize("text", [SHORT, LONG])
def test_a_text_that_cannot_be_tokenised_fails_its_request_alone(
    service: Harness, gate: Gate, callers: ThreadPoolExecutor, text: str
) -> None:
    waiting = [callers.submit(service.answers, "mood", "good film")]
    gate.wait_for_a_batch()
    waiting.append(callers.submit(service.answers, "embedding", "good film"))
    wait_until(lambda: queued(service) == 4)
    for _ in range(3):
        failed = service.predict("mood", text)
        assert_problem(failed, 500, "internal", "the service failed on this request; its log says why")
    assert queued(service) == 4
    gate.open()
    assert [len(future.result()) for future in waiting] == [1, 1]
    assert sample(service, "rootstock_requests_total", task="mood", outcome="failed") == 3
    assert sample(service, "rootstock_engine_faults_total") == 0
    assert_as_before(service)


@pytest.mark.usefixtures("greedy_tokenizer")
def test_a_text_that_cannot_be_tokenised_is_charged_to_no_quota(service: Harness) -> None:
    for _ in range(20):
        assert service.predict("embedding", SHORT * 10).status_code == 500
    assert service.answers("embedding", "good film")


@every_route
def test_every_route_says_that_memory_ran_out_in_its_own_form(
    service: Harness, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(answering, "read_for", exhausted)
        failed = service.http.post(path, json=ROUTES[path])
    assert failed.status_code == 500
    assert "the service failed on this request" in failed.text
    assert service.http.post(path, json=ROUTES[path]).status_code == 200
    assert_as_before(service)


def test_an_answer_that_cannot_be_decoded_fails_its_request_alone(
    service: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(answering, "_decode", exhausted)
        assert_problem(service.predict("mood", "good film"), 500, "internal", "its log says why")
    assert_as_before(service)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["python", "gpu", "cpu"])
def test_a_row_that_the_engine_has_no_memory_for_fails_its_request_and_nobody_elses_in_the_batch(
    service: Harness, callers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    run = Engine.run

    def limited(engine: Engine, rows: Sequence[Row]) -> list[Floats]:
        if any(len(row.tokens) > 8 for row in rows):
            raise type(error)(*error.args)
        return run(engine, rows)

    expected = service.answers("mood", "good film")
    gate = Gate(limited)
    monkeypatch.setattr(Engine, "run", lambda engine, rows: gate.run(engine, rows))
    running = callers.submit(service.answers, "mood", "good film")
    gate.wait_for_a_batch()
    batch = [callers.submit(service.answers, "mood", "good film")]
    wait_until(lambda: queued(service) == 4)
    large = callers.submit(service.predict, "mood", "x " * 20)
    wait_until(lambda: queued(service) == 26)
    batch.append(callers.submit(service.answers, "embedding", "good film"))
    wait_until(lambda: queued(service) == 30)
    gate.open()
    assert_problem(large.result(), 500, "engine_fault", f"the batch that held this request: {type(error).__name__}")
    assert running.result() == batch[0].result() == expected
    assert len(batch[1].result()) == 1
    assert sample(service, "rootstock_requests_total", task="mood", outcome="engine_fault") == 1
    assert_as_before(service)


SEAMS: dict[str, tuple[type, str]] = {
    "judged": (Arranger, "judge"),
    "proved": (Runner, "submit"),
    "run": (Engine, "run"),
}


@pytest.mark.parametrize("seam", SEAMS)
def test_an_upload_that_there_is_no_memory_for_leaves_all_as_it_was(
    service: Harness, tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch, seam: str
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    data, before = make_adapter(tiny_base, seed=2), service.state()
    for _ in range(2):  # the place for an upload is free again
        with monkeypatch.context() as patch:
            patch.setattr(*SEAMS[seam], exhausted)
            failed = service.put("mood", data)
        assert failed.status_code == 500
        assert failed.json()["code"] in ("internal", "engine_fault")
        assert service.state() == before
    assert service.upload("mood", data) == 2
    assert_as_before(service)


def test_keys_are_followed_again_after_memory_ran_out(
    tmp_path: Path, tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, refresh, tries = KeysFile(tmp_path / "keys.json"), Keyring.refresh, list[Keyring]()
    file.add("first", ["predict"], None)

    def exhausted_once(keyring: Keyring) -> bool:
        tries.append(keyring)
        if len(tries) == 1:
            raise MemoryError
        return refresh(keyring)

    monkeypatch.setattr("service.api.app.KEYS_SECONDS", 0.01)
    monkeypatch.setattr(Keyring, "refresh", exhausted_once)
    with harness(tmp_path / "store", tiny_base, keys_file=str(file.path)) as service:
        wait_until(lambda: bool(tries))
        bearer = {"Authorization": f"Bearer {file.add('second', ['predict'], None)}"}
        wait_until(lambda: service.http.get("/tasks", headers=bearer).status_code == 200)
