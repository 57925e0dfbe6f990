"""Several services on one store, over HTTP: a folder, or a real S3 endpoint of this machine."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import cycle, repeat
from pathlib import Path
from time import monotonic, sleep

import httpx2
import pytest
from starlette.testclient import TestClient

from service.adapters.file import digest
from service.api.app import create_app
from service.client import NEVER, Client
from service.engine.base_model import BaseModel
from service.errors import ServiceUnreachable
from service.registry.stores import open_store
from service.settings import Settings
from tests.api.harness import Harness, assert_problem
from tests.flaky import Fate, relaying
from tests.registry.disks import open_registry
from tests.s3 import Endpoint
from tests.test_processes import PATIENCE, Process
from tests.tiny import make_adapter

FOLLOW = ("--follow-seconds", "0.2")

Start = Callable[[], Process]


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "store")
    bucket: str = request.getfixturevalue("s3").bucket()
    return bucket


@pytest.fixture
def start(store: str, tiny_folder: Path) -> Iterator[Start]:
    """Starts one more service on the store."""
    started: list[Process] = []

    def start() -> Process:
        started.append(Process(store, tiny_folder, *FOLLOW))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def answering(url: str, task: str) -> tuple[int, str] | None:
    """The version and the file that answer."""
    answer = httpx2.post(f"{url}/predict/{task}", json={"inputs": "good film"}, timeout=PATIENCE)
    return (answer.json()["version"], answer.json()["digest"]) if answer.is_success else None


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < give_up
        sleep(0.02)


def test_two_services_take_uploads_at_once_and_serve_what_the_other_activates(
    start: Start, tiny_base: BaseModel
) -> None:
    services = [start(), start()]
    files = {seed: make_adapter(tiny_base, seed=seed) for seed in range(12)}

    def push(seed: int) -> tuple[int, str]:
        with Client(services[seed % 2].url) as client:
            version = client.push("mood", files[seed])
            return version["version"], version["digest"]

    with ThreadPoolExecutor(4) as pool:
        given = dict(pool.map(push, files))
    assert sorted(given) == list(range(1, 13))
    assert set(given.values()) == {digest(data) for data in files.values()}
    for number in (3, 9, 12, 1):
        with Client(services[number % 2].url) as client:
            client.activate("mood", number)
        for service in services:
            wait_until(lambda: answering(service.url, "mood") == (number, given[number]))  # noqa: B023
    logs = [httpx2.get(f"{service.url}/adapters/mood/log", timeout=PATIENCE).json() for service in services]
    assert logs[0] == logs[1]
    assert sorted(one["version"] for one in logs[0]["entries"] if one["did"] == "upload") == sorted(given)
    assert [one["version"] for one in logs[0]["entries"] if one["did"] == "activate"] == [3, 9, 12, 1]


@pytest.mark.slow
def test_a_service_that_is_killed_among_uploads_leaves_a_store_that_the_other_goes_on_with(
    start: Start, tiny_base: BaseModel
) -> None:
    survivor, acknowledged, sent = start(), dict[int, str](), set[str]()
    seeds = iter(range(100_000))

    def push(url: str) -> None:
        with Client(url, retry=NEVER) as client, suppress(ServiceUnreachable):
            while not done.is_set():
                data = make_adapter(tiny_base, seed=next(seeds))
                sent.add(digest(data))
                version = client.push("mood", data)
                assert acknowledged.setdefault(version["version"], version["digest"]) == version["digest"]

    for life in range(4):
        other, done = start(), threading.Event()
        before = len(acknowledged)
        with ThreadPoolExecutor(4) as pool:
            pushing = [pool.submit(push, service.url) for service in (survivor, other) for _ in range(2)]
            wait_until(lambda: len(acknowledged) >= before + 6)  # noqa: B023
            sleep(0.05 * life)
            other.kill()
            done.set()
            for one in pushing:
                one.result()
    for service in (survivor, start()):
        found = httpx2.get(f"{service.url}/adapters/mood", timeout=PATIENCE).json()["versions"]
        listed = {version["version"]: version["digest"] for version in found}
        assert listed.items() >= acknowledged.items()
        assert set(listed.values()) <= sent
        assert not [version for version in found if version["problem"]]
        version = answering(service.url, "mood")
        assert version is not None
        assert listed[version[0]] == version[1]


@pytest.mark.slow
def test_a_store_that_cannot_be_reached_refuses_changes_and_nothing_else(
    s3: Endpoint, tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, away = s3.bucket(), threading.Event()
    with relaying(s3.url, (Fate.CUT if away.is_set() else Fate.PASSED for _ in repeat(None))) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        with whole(bucket, tiny_base) as service:
            service.upload("mood", make_adapter(tiny_base, seed=1))
            before = service.answers("mood", "good film")
            away.set()
            refused = service.put("mood", make_adapter(tiny_base, seed=2))
            assert_problem(refused, 503, "store_unreachable", f"store {bucket}: .*HTTP error")
            assert refused.headers["Retry-After"] == "5"
            sleep(0.5)  # it follows in vain
            assert service.answers("mood", "good film") == before
            assert service.http.get("/readyz").is_success
            away.clear()
            assert service.upload("mood", make_adapter(tiny_base, seed=2)) == 2
            with monkeypatch.context() as patch:
                patch.setenv("AWS_ENDPOINT_URL", s3.url)
                open_registry(tiny_base, open_store(bucket)).upload("mood", make_adapter(tiny_base, seed=3))
            wait_until(lambda: service.predict("mood", "good film").json()["version"] == 3)


@pytest.mark.slow
def test_answers_that_are_lost_on_the_way_from_the_store_make_nothing_twice(
    s3: Endpoint, tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3.bucket()
    # Every answer to a write is lost once; what is read in between passes.
    with relaying(s3.url, cycle([Fate.LOST, Fate.PASSED, Fate.PASSED])) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        with whole(bucket, tiny_base) as service:
            numbers = [service.upload("mood", make_adapter(tiny_base, seed=seed)) for seed in range(6)]
            assert numbers == [1, 2, 3, 4, 5, 6]
            entries = service.get("/adapters/mood/log")["entries"]
            assert [one["version"] for one in entries] == numbers


@contextmanager
def whole(bucket: str, base: BaseModel) -> Iterator[Harness]:
    app = create_app(Settings(store=bucket, threads=1, follow_seconds=0.1), base)
    with TestClient(app, "http://localhost") as http:
        yield Harness(http, Path(), app.state.services)
