"""Real processes, killed and restarted: what was acknowledged is there, and who was admitted is answered."""

import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.adapters.file import digest
from service.client import Client
from service.engine.base_model import BaseModel
from service.errors import RootstockError, ServiceUnreachable
from tests.tiny import make_adapter

pytestmark = pytest.mark.slow

PATIENCE = 60.0  # seconds; only a failing test waits so long


class Process:
    """`rootstock serve` on a store that outlives it."""

    def __init__(self, store: Path, base: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "service.cli", "serve", "--store", str(store), "--base-model", str(base)]
        command += ["--port", str(port), "--threads", "1", *options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.wait_until(self._ready)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        give_up = monotonic() + PATIENCE
        while not condition():
            assert self._process.poll() is None
            assert monotonic() < give_up
            sleep(0.01)

    def kill(self) -> None:
        """As a machine that loses its power."""
        self._process.kill()
        self._process.wait(PATIENCE)

    def terminate(self) -> None:
        self._process.terminate()

    def ended(self) -> int:
        """The exit code, once there is one."""
        return self._process.wait(PATIENCE)

    def _ready(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/readyz").is_success
        except httpx2.HTTPError:
            return False


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path, tiny_folder: Path) -> Iterator[Start]:
    """Starts a service on the test's store, after the one before it has ended."""
    started: list[Process] = []

    def start(*options: str) -> Process:
        started.append(Process(tmp_path / "store", tiny_folder, *options))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def versions(url: str, task: str) -> dict[int, str]:
    """The digests of a task's versions that are whole."""
    listed = httpx2.get(f"{url}/adapters/{task}").raise_for_status().json()["versions"]
    return {version["version"]: version["digest"] for version in listed if version["problem"] is None}


def metric(url: str, name: str) -> float:
    families = text_string_to_metric_families(httpx2.get(f"{url}/metrics").text)
    return next(sample.value for family in families for sample in family.samples if sample.name == name)


def test_uploads_under_load_fail_no_request_and_are_served_at_once(start: Start, tiny_base: BaseModel) -> None:
    process = start()
    done = threading.Event()

    def call(task: str) -> int:
        answered = 0
        with Client(process.url) as client:
            while not done.is_set():
                assert len(client.predict(task, ["good film", "never again"])) == 2
                answered += 1
        return answered

    with Client(process.url) as client, ThreadPoolExecutor() as callers:
        for task in ("mood", "colour"):
            client.push(task, make_adapter(tiny_base, seed=1))
        calling = [callers.submit(call, task) for task in ("mood", "colour", "embedding") * 2]
        try:
            for number in range(2, 12):
                client.push("mood", make_adapter(tiny_base, seed=number))
                client.push(f"new-{number}", make_adapter(tiny_base, kind="regression", seed=number))
                assert set(client.predict(f"new-{number}", "good film")[0]) == {"value"}
                assert httpx2.post(f"{process.url}/predict/mood", json={"inputs": "x"}).json()["version"] == number
        finally:
            done.set()
        assert all(future.result() > 0 for future in calling)


def test_a_kill_right_after_the_acknowledgement_loses_nothing(start: Start, tiny_base: BaseModel) -> None:
    process = start()
    data = make_adapter(tiny_base, seed=1)
    with Client(process.url) as client:
        acknowledged = client.push("mood", data)
        process.kill()
        with pytest.raises(ServiceUnreachable):
            client.tasks()
    assert acknowledged["version"] == 1
    answer = httpx2.post(f"{start().url}/predict/mood", json={"inputs": "good film"}).json()
    assert (answer["version"], answer["digest"]) == (1, digest(data))


@pytest.mark.parametrize("seed", range(4))
def test_a_kill_among_uploads_loses_none_that_was_acknowledged(start: Start, tiny_base: BaseModel, seed: int) -> None:
    moments = random.Random(seed)
    acknowledged: dict[str, dict[int, str]] = {"mood": {}, "colour": {}}  # version → digest
    for life in range(3):
        process = start()
        for task, known in acknowledged.items():
            if known:
                assert_served(process.url, task, known)

        seeds = range(10_000 * life, 10_000 * (life + 1))  # bytes that no life before has sent
        uploading = [
            threading.Thread(target=upload_until_killed, args=(process.url, tiny_base, seeds, task, known))
            for task, known in acknowledged.items()
        ]
        enough = sum(map(len, acknowledged.values())) + 4
        for thread in uploading:
            thread.start()
        process.wait_until(partial(has_grown, acknowledged, enough))
        sleep(moments.uniform(0, 0.3))
        process.kill()
        for thread in uploading:
            thread.join()


def upload_until_killed(url: str, base: BaseModel, seeds: range, task: str, known: dict[int, str]) -> None:
    with Client(url) as client, suppress(ServiceUnreachable):
        for seed in seeds:
            answer = client.push(task, make_adapter(base, seed=seed))
            known[answer["version"]] = answer["digest"]


def has_grown(acknowledged: dict[str, dict[int, str]], enough: int) -> bool:
    return sum(map(len, acknowledged.values())) >= enough


def assert_served(url: str, task: str, known: dict[int, str]) -> None:
    """Every version that was acknowledged is there, byte for byte, and the last one answers."""
    found = versions(url, task)
    assert found.items() >= known.items()
    for number in known:
        assert digest(httpx2.get(f"{url}/adapters/{task}/versions/{number}").content) == known[number]
    answer = httpx2.post(f"{url}/predict/{task}", json={"inputs": "good film"}).json()
    assert answer["version"] >= max(known)  # a later one may have been taken and never told of
    assert answer["digest"] == found[answer["version"]]


def test_a_terminated_service_answers_what_is_in_flight_and_ends_well(start: Start) -> None:
    # A row a batch, so that the work outlasts the signal by far.
    process = start("--batch-tokens", "64", "--queue-tokens", "10000000", "--stall-seconds", "600")
    texts, callers = ["good " * 62] * 1000, 4

    def call() -> Any:
        with Client(process.url) as client:
            return client.predict("embedding", texts)

    with ThreadPoolExecutor(callers) as pool:
        calling = [pool.submit(call) for _ in range(callers)]
        process.wait_until(
            lambda: (
                metric(process.url, "rootstock_queued_tokens") + metric(process.url, "rootstock_tokens_total")
                >= callers * len(texts) * 64 - 64
            )
        )
        assert metric(process.url, "rootstock_queued_tokens") > 0
        process.terminate()
        assert [len(future.result()) for future in calling] == [len(texts)] * callers
    assert process.ended() == 0
    with Client(process.url) as client, pytest.raises(RootstockError):
        client.tasks()


def test_an_idle_service_ends_well(start: Start) -> None:
    process = start()
    process.terminate()
    assert process.ended() == 0
