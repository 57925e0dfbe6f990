"""A real process whose store is full, read-only, or hangs: what is served goes on, and nothing is left behind."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.engine.base_model import BaseModel
from tests.api.harness import assert_problem
from tests.registry.disks import listing
from tests.test_processes import PATIENCE, Process, metric
from tests.tiny import make_adapter


class Service:
    """A service with one task, on a disk that a test may trouble."""

    def __init__(self, folder: Path, base: BaseModel, base_folder: Path) -> None:
        self.store, self._plan, self._base = folder / "store", folder / "plan", base
        program = "tests.troubled_disk", str(self._plan)
        self.process = Process(self.store, base_folder, "--follow-seconds", "0.1", "--uploads", "2", program=program)
        self._seed = 0
        assert self.put("mood", self.new()).status_code == 201

    def new(self) -> bytes:
        """A file that no task has yet."""
        self._seed += 1
        return make_adapter(self._base, seed=self._seed)

    def put(self, task: str, data: bytes) -> httpx2.Response:
        return httpx2.put(f"{self.process.url}/adapters/{task}", content=data, timeout=PATIENCE)

    def post(self, path: str, body: object) -> httpx2.Response:
        return httpx2.post(self.process.url + path, json=body, timeout=PATIENCE)

    def delete(self, path: str) -> httpx2.Response:
        return httpx2.delete(self.process.url + path, timeout=PATIENCE)

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(self.process.url + path, timeout=PATIENCE)

    def answers(self, task: str = "mood") -> dict[str, Any]:
        answer: dict[str, Any] = self.post(f"/predict/{task}", {"inputs": "good film"}).raise_for_status().json()
        return answer

    def state(self) -> object:
        """All that a change which is refused leaves as it was."""
        files = listing(self.store)
        files.pop("new.json", None)  # it names no version; a first upload that was refused may leave it
        return files, self.get("/tasks").json(), self.get("/adapters/mood").json(), self.answers()

    @contextmanager
    def trouble(self, step: str, fate: str) -> Iterator[None]:
        written = self._plan.with_suffix(".new")
        written.write_text(f"{step} {fate}")
        written.replace(self._plan)  # whole, for who reads it at every step
        try:
            yield
        finally:
            self._plan.unlink()

    def hangs(self) -> bool:
        return self._plan.with_suffix(".hangs").exists()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_base: BaseModel, tiny_folder: Path) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("failing"), tiny_base, tiny_folder)
    yield service
    service.process.kill()


FAILURES = [
    ("fsync", "ENOSPC", 507, "store_full", "No space left on device"),
    ("link", "EDQUOT", 507, "store_full", "quota exceeded"),
    ("open", "ENOSPC", 507, "store_full", "No space left on device"),
    ("all", "EROFS", 503, "store_read_only", "Read-only file system"),
    ("open", "EACCES", 503, "store_read_only", "Permission denied"),
    ("fsync", "EIO", 500, "bad_store", "Input/output error"),
]


@pytest.mark.parametrize(("step", "fate", "status", "code", "cause"), FAILURES)
def test_a_store_that_cannot_be_written_refuses_changes_by_name_and_leaves_nothing_behind(
    service: Service, step: str, fate: str, status: int, code: str, cause: str
) -> None:
    data, before = service.new(), service.state()
    refused = metric_of(service, code)
    with service.trouble(step, fate):
        for task in ("mood", "new"):
            assert_problem(service.put(task, data), status, code, f"store: {task}.* cannot be written: .*{cause}")
        assert service.state() == before
        assert service.get("/readyz").is_success
        assert service.get("/healthz").is_success
        assert service.get("/adapters/new").status_code == 404
    assert service.state() == before
    assert metric_of(service, code) == refused + 2

    version = service.put("mood", data)
    assert version.status_code == 201
    assert service.answers()["digest"] == version.json()["digest"]


def metric_of(service: Service, code: str) -> float:
    """Refusals of this code so far."""
    text = service.get("/metrics").text
    [line] = [line for line in text.splitlines() if line.startswith(f'rootstock_refusals_total{{code="{code}"}}')]
    return float(line.split()[-1])


def test_a_store_that_takes_no_changes_refuses_every_kind_of_change(service: Service) -> None:
    assert service.put("other", service.new()).status_code == 201
    assert service.put("other", service.new()).status_code == 201
    before = service.state(), service.get("/adapters/other").json()
    with service.trouble("all", "EROFS"):
        for refused in (
            service.post("/adapters/other/activate", {"version": 1}),
            service.post("/adapters/other/candidate", {"version": 1, "mode": "shadow"}),
            service.delete("/adapters/other/versions/1"),
            service.delete("/adapters/other"),
        ):
            assert_problem(refused, 503, "store_read_only", "store: other.json cannot be written: Read-only")
            assert int(refused.headers["Retry-After"]) >= 1
        assert (service.state(), service.get("/adapters/other").json()) == before
    assert service.delete("/adapters/other").status_code == 204


def test_a_store_that_hangs_holds_up_changes_alone(service: Service) -> None:
    before = service.answers()
    with ThreadPoolExecutor() as callers:
        with service.trouble("fsync", "hangs"):
            uploading = [callers.submit(service.put, "slow", service.new())]
            service.process.wait_until(service.hangs)
            uploading.append(callers.submit(service.put, "slower", service.new()))  # waits for the one before
            service.process.wait_until(lambda: metric(service.process.url, "rootstock_requests_under_way") >= 3)
            assert_problem(service.put("third", service.new()), 503, "overloaded", "2 uploads are under way")
            for path in ("/readyz", "/healthz", "/tasks", "/stats", "/adapters/mood", "/adapters/mood/versions/1"):
                assert service.get(path).is_success
            assert service.answers() == before
            assert service.get("/adapters/slow").status_code == 404
            assert not any(one.done() for one in uploading)
        assert [one.result().status_code for one in uploading] == [201, 201]
    for task in ("slow", "slower"):
        assert service.answers(task)["version"] == 1
