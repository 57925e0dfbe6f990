"""Real processes, killed and restarted: what was acknowledged is there, and who was admitted is answered."""

import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.adapters.file import digest
from service.client import NEVER, Client
from service.engine.base_model import BaseModel
from service.errors import RootstockError, ServiceUnreachable
from tests.tiny import make_adapter

PROGRAM = ("service.cli",)
PATIENCE = 300.0  # seconds; only a failing test waits so long
A_FEW_AND_MANY = pytest.mark.parametrize("lives", [2, pytest.param(50, marks=pytest.mark.slow)])


class Process:
    """`rootstock serve` on a store that outlives it."""

    def __init__(
        self, store: Path | str, base: Path, *options: str, until: str = "ready", program: Sequence[str] = PROGRAM
    ) -> None:
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", *program, "serve", "--store", str(store), "--base-model", str(base)]
        command += ["--port", str(port), "--threads", "1", *options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.wait_until(self.ready if until == "ready" else self.listens)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        give_up = monotonic() + PATIENCE
        while not condition():
            assert self._process.poll() is None
            assert monotonic() < give_up
            sleep(0.05)

    def kill(self) -> None:
        """As a machine that loses its power."""
        self._process.kill()
        self._process.wait(PATIENCE)

    def terminate(self) -> None:
        self._process.terminate()

    def ended(self) -> int:
        """The exit code, once there is one."""
        return self._process.wait(PATIENCE)

    def ready(self) -> bool:
        return self._succeeds("/readyz")

    def listens(self) -> bool:
        return self._succeeds("/healthz")

    def _succeeds(self, path: str) -> bool:
        try:
            # Without reading certificates, which takes a while each time.
            return httpx2.get(self.url + path, timeout=PATIENCE, verify=False).is_success
        except httpx2.HTTPError:
            return False


def _free_port() -> int:
    """None of those that the system gives to whoever calls out: one of them may be taken before the service has it."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path, tiny_folder: Path) -> Iterator[Start]:
    """Starts a service on the test's store, after the one before it has ended."""
    started: list[Process] = []

    def start(*options: str, until: str = "ready") -> Process:
        started.append(Process(tmp_path / "store", tiny_folder, *options, until=until))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def metric(url: str, name: str) -> float:
    families = text_string_to_metric_families(httpx2.get(f"{url}/metrics", timeout=PATIENCE).text)
    return next(sample.value for family in families for sample in family.samples if sample.name == name)


@pytest.mark.slow
def test_uploads_under_load_fail_no_request_and_are_served_at_once(start: Start, tiny_base: BaseModel) -> None:
    process = start()
    done = threading.Event()

    def call(task: str) -> int:
        answered = 0
        with Client(process.url, retry=NEVER) as client:
            while not done.is_set():
                assert len(client.predict(task, ["good film", "never again"])) == 2
                answered += 1
        return answered

    with Client(process.url, retry=NEVER) as client, ThreadPoolExecutor() as callers:
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


@pytest.mark.slow
def test_a_kill_right_after_the_acknowledgement_loses_nothing(start: Start, tiny_base: BaseModel) -> None:
    process = start()
    data = make_adapter(tiny_base, seed=1)
    with Client(process.url, retry=NEVER) as client:
        acknowledged = client.push("mood", data)
        process.kill()
        with pytest.raises(ServiceUnreachable):
            client.tasks()
    assert acknowledged["version"] == 1
    answer = httpx2.post(f"{start().url}/predict/mood", json={"inputs": "good film"}).json()
    assert (answer["version"], answer["digest"]) == (1, digest(data))


@A_FEW_AND_MANY
def test_a_kill_among_uploads_loses_none_that_was_acknowledged(start: Start, tiny_base: BaseModel, lives: int) -> None:
    moments = random.Random(lives)
    uploads = [Uploads("mood"), Uploads("colour")]
    for life in range(lives):
        process = start()
        for each in uploads:
            each.assert_served(process.url)
        enough = sum(len(each.acknowledged) for each in uploads) + 4
        seeds = range(10_000 * life, 10_000 * (life + 1))  # bytes that no life before has sent
        uploading = [
            threading.Thread(target=each.push_until_killed, args=(process.url, tiny_base, seeds)) for each in uploads
        ]
        for thread in uploading:
            thread.start()
        process.wait_until(lambda: sum(len(each.acknowledged) for each in uploads) >= enough)  # noqa: B023
        sleep(moments.uniform(0, 0.3))
        process.kill()
        for thread in uploading:
            thread.join()
    last = start()
    for each in uploads:
        each.assert_served(last.url)


class Uploads:
    """What was sent to one task over the lives of a service, and what of it was acknowledged."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.sent: set[str] = set()  # digests
        self.acknowledged: dict[int, str] = {}  # version → digest

    def push_until_killed(self, url: str, base: BaseModel, seeds: range) -> None:
        with Client(url, retry=NEVER) as client, suppress(ServiceUnreachable):
            for seed in seeds:
                data = make_adapter(base, seed=seed)
                self.sent.add(digest(data))
                answer = client.push(self.task, data)
                self.acknowledged[answer["version"]] = answer["digest"]

    def assert_served(self, url: str) -> None:
        """All that was acknowledged is there, byte for byte; what is there was sent, and is whole; the last answers."""
        if not self.acknowledged:
            return
        with httpx2.Client(base_url=url, timeout=PATIENCE) as http:
            listed = http.get(f"/adapters/{self.task}").raise_for_status().json()["versions"]
            found = {version["version"]: version["digest"] for version in listed}
            assert found.items() >= self.acknowledged.items()
            assert set(found.values()) <= self.sent
            assert not [version for version in listed if version["problem"]]
            for number in found:
                assert digest(http.get(f"/adapters/{self.task}/versions/{number}").content) == found[number]
            answer = http.post(f"/predict/{self.task}", json={"inputs": "good film"}).json()
        assert answer["version"] >= max(self.acknowledged)  # a later one may have been taken and never told of
        assert answer["digest"] == found[answer["version"]]


@A_FEW_AND_MANY
def test_a_stop_at_full_load_leaves_no_request_without_an_answer(
    start: Start, tiny_base: BaseModel, lives: int
) -> None:
    moments = random.Random(lives)
    for life in range(lives):
        process = start("--batch-tokens", "256", "--queue-seconds", "600")
        with Client(process.url, retry=NEVER) as client:
            client.push("mood", make_adapter(tiny_base, seed=life))
        callers = [Caller(process.url, task) for task in ("mood", "embedding") * 8]
        with ThreadPoolExecutor(len(callers)) as pool:
            calling = [pool.submit(caller.call_until_refused) for caller in callers]
            process.wait_until(lambda: all(caller.answered for caller in callers))  # noqa: B023
            sleep(moments.uniform(0, 0.2))
            process.terminate()
            for future in calling:
                future.result()
        assert process.ended() == 0


class Caller:
    """Asks again and again over one connection, as long as it is answered."""

    def __init__(self, url: str, task: str) -> None:
        self.answered = 0
        self._url, self._task = url, task

    def call_until_refused(self) -> None:
        """Ends when the service says that it stops, or no longer listens.

        A connection that is refused is a `ConnectError`; one that breaks with a request on it raises another error.
        """
        body = {"inputs": ["good film", "never again"] * 32}
        with httpx2.Client(base_url=self._url, timeout=PATIENCE) as http, suppress(httpx2.ConnectError):
            while True:
                answer = http.post(f"/predict/{self._task}", json=body)
                if answer.status_code == 503:
                    break
                assert answer.status_code == 200, answer.text
                assert len(answer.json()["predictions"]) == len(body["inputs"])
                self.answered += 1
            assert answer.json()["code"] == "stopping"
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.headers["Connection"] == "close"


# A row a batch, so that the work outlasts a signal by far.
LONG_WORK = [
    *("--batch-tokens", "64", "--queue-tokens", "10000000", "--queue-seconds", "100000"),
    *("--stall-seconds", "600", "--timeout-seconds", "600"),
]
LONG_TEXTS = ["good " * 62] * 1000


@contextmanager
def working(process: Process, callers: int) -> Iterator[list["Future[Any]"]]:
    """So many large requests, all of them queued."""

    def call() -> Any:
        with Client(process.url, retry=NEVER) as client:
            return client.predict("embedding", LONG_TEXTS)

    with ThreadPoolExecutor(callers) as pool:
        calling = [pool.submit(call) for _ in range(callers)]
        process.wait_until(
            lambda: (
                metric(process.url, "rootstock_queued_tokens") + metric(process.url, "rootstock_tokens_total")
                >= callers * len(LONG_TEXTS) * 64 - 64
            )
        )
        assert metric(process.url, "rootstock_queued_tokens") > 0
        yield calling


@pytest.mark.slow
def test_a_terminated_service_answers_what_is_in_flight_and_ends_well(start: Start) -> None:
    process = start(*LONG_WORK)
    with working(process, 4) as calling:
        process.terminate()
        assert [len(future.result()) for future in calling] == [len(LONG_TEXTS)] * 4
    assert process.ended() == 0
    with Client(process.url, retry=NEVER) as client, pytest.raises(RootstockError):
        client.tasks()


@pytest.mark.slow
def test_a_second_signal_ends_a_service_with_work_in_flight(start: Start) -> None:
    process = start(*LONG_WORK)
    with working(process, 8) as calling:
        process.terminate()
        process.wait_until(lambda: not process.ready())
        process.terminate()
        assert process.ended() == 128 + signal.SIGTERM
        assert [type(future.exception()) for future in calling] == [ServiceUnreachable] * len(calling)


@pytest.mark.slow
def test_a_signal_during_the_start_ends_well(start: Start) -> None:
    process = start(until="listening")
    process.terminate()
    assert process.ended() == 0


def test_an_idle_service_ends_well(start: Start) -> None:
    process = start()
    process.terminate()
    assert process.ended() == 0
