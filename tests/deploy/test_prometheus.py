"""A real Prometheus scrapes a real service by our rules: it records, and each alert fires when its cause is there.

The rules are those that are shipped, with seconds in place of their minutes.
"""

import re
import resource
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from shutil import which
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any

import httpx2
import pytest
import yaml

from service.api.app import create_app
from service.api.services import Services
from service.engine.base_model import BaseModel
from service.engine.engine import Engine, Row
from service.settings import Settings
from service.tasks import Floats
from tests.deploy.rules import CONFIG, RULE_FILES, alerts, recorded
from tests.deploy.test_dashboard import panels
from tests.live import listening
from tests.tiny import make_adapter

pytestmark = pytest.mark.slow

PATIENCE = 60.0  # seconds; only a failing test waits so long


class Prometheus:
    """The program, with our configuration made quick and led to a service."""

    def __init__(self, folder: Path, target: str) -> None:
        program = which("prometheus")
        assert program, "Prometheus is needed: Debian's package `prometheus` has it"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        config = yaml.safe_load(CONFIG.read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        for job, at in zip(config["scrape_configs"], (target, address), strict=True):
            job["static_configs"] = [{"targets": [at]}]
        (folder / CONFIG.name).write_text(yaml.safe_dump(config))
        for file in RULE_FILES:
            (folder / file.name).write_text(quick(file.read_text()))
        self._http = httpx2.Client(base_url=f"http://{address}")
        self._process = subprocess.Popen(
            [
                *(program, f"--config.file={folder / CONFIG.name}", f"--storage.tsdb.path={folder / 'data'}"),
                f"--web.listen-address={address}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = self._http.get("/api/v1/query", params={"query": expression})
        found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]["result"]
        return found

    def targets(self) -> dict[str, str]:
        found = self._http.get("/api/v1/targets").raise_for_status().json()["data"]["activeTargets"]
        return {target["labels"]["job"]: target["health"] for target in found}

    def firing(self) -> set[str]:
        found = self._http.get("/api/v1/alerts").raise_for_status().json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in found if alert["state"] == "firing"}

    def ready(self) -> bool:
        with suppress(httpx2.HTTPError):
            return self._http.get("/-/ready").is_success
        return False

    def end(self) -> None:
        self._http.close()
        self._process.kill()
        self._process.wait()


@contextmanager
def watching(folder: Path, url: str) -> Iterator[Prometheus]:
    prometheus = Prometheus(folder, url.removeprefix("http://"))
    try:
        until(prometheus.ready)
        until(lambda: prometheus.targets() == {"rootstock": "up", "prometheus": "up"})
        yield prometheus
    finally:
        prometheus.end()


def quick(rules: str) -> str:
    """The same rules in a sixtieth of their time and less."""
    rules = re.sub(r"\bfor: \d+m", "for: 1s", rules)
    rules = re.sub(r"\[(5|10)m\]", "[6s]", rules)
    return rules.replace("rootstock_batch_running_seconds > 30", "rootstock_batch_running_seconds > 2")


def until(condition: Callable[[], Any]) -> None:
    give_up = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < give_up
        sleep(0.2)


class Watched:
    """A service on a real socket, asked all the time, and the Prometheus that watches it."""

    def __init__(self, http: httpx2.Client, services: Services, prometheus: Prometheus) -> None:
        self.http, self.services, self.prometheus = http, services, prometheus

    def ask(self, task: str = "embedding") -> int:
        return self.http.post(f"/predict/{task}", json={"inputs": ["good film", "a b c"]}).status_code

    @contextmanager
    def asked(self, *tasks: str, callers: int = 1) -> Iterator[None]:
        """Callers that ask the tasks in turn, until this block ends."""
        done = Event()

        def call() -> None:
            while not done.is_set():
                for task in tasks:
                    self.ask(task)
                    done.wait(0.05)

        with ThreadPoolExecutor(callers) as pool:
            calling = [pool.submit(call) for _ in range(callers)]
            try:
                yield
            finally:
                done.set()
        for future in calling:
            future.result()

    def assert_fires(self, *expected: str) -> None:
        until(lambda: self.prometheus.firing() >= {*expected})


@contextmanager
def watched(folder: Path, base: BaseModel, **settings: Any) -> Iterator[Watched]:
    app = create_app(Settings(store=folder / "store", **{"threads": 1, **settings}), base)
    with (
        listening(app) as url,
        watching(folder, url) as prometheus,
        httpx2.Client(base_url=url, timeout=PATIENCE) as http,
    ):
        yield Watched(http, app.state.services, prometheus)


def test_a_service_in_good_order_is_recorded_and_shown_and_fires_nothing(tmp_path: Path, tiny_base: BaseModel) -> None:
    with watched(tmp_path, tiny_base, max_resident=1, spare_versions=1) as service:
        for task in ("mood", "colour"):
            service.http.put(f"/adapters/{task}", content=make_adapter(tiny_base)).raise_for_status()
        other = make_adapter(tiny_base, seed=1)
        service.http.put("/adapters/mood?activate=false", content=other).raise_for_status()
        nominated = {"version": 2, "mode": "shadow"}
        service.http.post("/adapters/mood/candidate", json=nominated).raise_for_status()
        with service.asked("embedding", *["mood"] * 8, *["colour"] * 8):
            until(lambda: all(service.prometheus.query(name) for name in recorded()))
            variables = {"$job": "rootstock", "$instance": ".*", "$__rate_interval": "6s"}
            for panel in panels():
                for target in panel["targets"]:
                    expression = target["expr"]
                    for variable, value in variables.items():
                        expression = expression.replace(variable, value)
                    assert service.prometheus.query(expression), (panel["title"], expression)
            requests = "sum by (task) (rootstock_requests_total)"
            assert {one["metric"]["task"] for one in service.prometheus.query(requests)} == {
                "embedding",
                "mood",
                "colour",
            }
            assert service.prometheus.firing() == set()


def test_an_engine_that_fails_stalls_and_ends_fires(
    tmp_path: Path, tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(tmp_path, tiny_base) as service:
        assert service.ask() == 200
        until(lambda: service.prometheus.query("rootstock_engine_faults_total"))

        def broken(*_: object) -> list[Floats]:
            raise RuntimeError("a fault that was put here")

        with monkeypatch.context() as patch, service.asked("embedding"):
            patch.setattr(Engine, "run", broken)
            service.assert_fires("RootstockEngineFaults", "RootstockErrors")
        go_on, run = Event(), Engine.run

        def held(self: Engine, rows: Sequence[Row]) -> list[Floats]:
            assert go_on.wait(PATIENCE)
            return run(self, rows)

        with monkeypatch.context() as patch:
            patch.setattr(Engine, "run", held)
            asking = Thread(target=service.ask)
            asking.start()
            service.assert_fires("RootstockEngineStalled")
            go_on.set()
            asking.join()
        until(lambda: service.prometheus.firing() == set())
        service.services.runner.stop()
        service.assert_fires("RootstockEngineStopped", "RootstockNotReady")


def test_more_work_than_the_engine_can_do_fires(
    tmp_path: Path, tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Engine.run

    def slow(self: Engine, rows: Sequence[Row]) -> list[Floats]:
        sleep(0.6)
        return run(self, rows)

    with watched(tmp_path, tiny_base, batch_tokens=8, queue_tokens=40) as service:
        with monkeypatch.context() as patch, service.asked("embedding", callers=8):
            patch.setattr(Engine, "run", slow)
            service.assert_fires("RootstockOverloaded", "RootstockQueueFull", "RootstockSlow")
        with service.asked("embedding"):
            until(lambda: service.prometheus.firing() == set())


def test_trouble_with_the_store_fires(tmp_path: Path, tiny_base: BaseModel) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "bad-1.safetensors").write_bytes(b"no adapter")
    with watched(tmp_path, tiny_base, max_resident=1) as service:
        service.assert_fires("RootstockAdapterRefused")
        for task in ("mood", "colour"):
            service.http.put(f"/adapters/{task}", content=make_adapter(tiny_base)).raise_for_status()
        with service.asked("mood", "colour"):
            service.assert_fires("RootstockThrashing")
        (store / "mood-1.safetensors").unlink()  # one that is not in memory: the other was asked for last
        with service.asked("mood"):
            service.assert_fires("RootstockStoreFails")
        service.services.metrics.store_free_bytes.set_function(lambda: 1e8)
        service.assert_fires("RootstockDiskLow")


def test_a_process_that_runs_out_of_files_or_ends_fires(tmp_path: Path, tiny_base: BaseModel) -> None:
    app = create_app(Settings(store=tmp_path / "store", threads=1), tiny_base)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stopping:
        with ExitStack() as serving:
            url = serving.enter_context(listening(app))
            prometheus = stopping.enter_context(watching(tmp_path, url))
            until(lambda: prometheus.query('process_open_fds{job="rootstock"}'))
            [used] = prometheus.query('process_open_fds{job="rootstock"}')
            serving.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
            resource.setrlimit(resource.RLIMIT_NOFILE, (int(used["value"][1]) + 5, hard))
            until(lambda: "RootstockFilesLow" in prometheus.firing())
        until(lambda: "RootstockDown" in prometheus.firing())


def test_the_tests_here_make_every_alert_fire() -> None:
    here = Path(__file__).read_text()
    assert [alert for alert in alerts() if f'"{alert}"' not in here] == []
