"""A real process that starts on a store with damaged files: it serves what is whole, and tells of what is not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.adapters.manifest import BaseIdentity
from service.engine.base_model import BaseModel
from tests.registry.disks import open_registry
from tests.test_processes import PATIENCE, Process, metric
from tests.tiny import make_adapter

ANOTHER = "0" * 64  # no base has this fingerprint
REASONS = {
    "truncated": "the file is cut short",
    "flipped-header": "JSON",
    "flipped-tensor": "the file is not as it was written",
    "flipped-upload": "the file is not as it was written",
    "empty": "header",
    "other-base": "the adapter was trained on base",
    "damaged-state": "damaged-state.json is not a task's state",
    "half-state": "half-state.json is not a task's state",
}
REPAIRED = {"damaged-state", "half-state"}  # whose files were whole all the time


@pytest.fixture(scope="module")
def good(tiny_base: BaseModel) -> bytes:
    return make_adapter(tiny_base, seed=1)


@pytest.fixture(scope="module")
def process(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: BaseModel, tiny_folder: Path, good: bytes
) -> Iterator[Process]:
    """A service that has started on a store with a task of each sort of damage, and one that is whole."""
    store = tmp_path_factory.mktemp("store")
    registry = open_registry(tiny_base, store)
    for task in ("whole", "flipped-upload", "damaged-state", "half-state"):
        registry.upload(task, make_adapter(tiny_base, seed=0))
    registry.close()
    identity = BaseIdentity(**(tiny_base.identity.model_dump() | {"fingerprint": ANOTHER}))
    files = {
        "truncated": good[: len(good) // 2],
        "flipped-header": flipped(good, 8),
        "flipped-tensor": flipped(good, len(good) - 2),
        "flipped-upload": flipped((store / "flipped-upload-1.safetensors").read_bytes(), len(good) - 2),
        "empty": b"",
        "other-base": make_adapter(tiny_base, base=identity),
    }
    for task, data in files.items():
        (store / f"{task}-1.safetensors").write_bytes(data)
    (store / "damaged-state.json").write_bytes(b"\x00" * 64)  # as a disk may leave it that lost its power
    state = (store / "half-state.json").read_bytes()
    (store / "half-state.json").write_bytes(state[: len(state) // 2])
    process = Process(store, tiny_folder, "--follow-seconds", "0.1")
    yield process
    process.kill()


def flipped(data: bytes, place: int) -> bytes:
    """With one bit of that byte turned over."""
    return data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :]


def predict(process: Process, task: str) -> httpx2.Response:
    return httpx2.post(f"{process.url}/predict/{task}", json={"inputs": "good film"}, timeout=PATIENCE)


def get(process: Process, path: str) -> Any:
    return httpx2.get(f"{process.url}{path}", timeout=PATIENCE).raise_for_status().json()


def told(process: Process, task: str) -> dict[str, Any]:
    """What the list of tasks says of it."""
    found: dict[str, Any] = next(one for one in get(process, "/tasks") if one["task"] == task)
    return found


def refused(process: Process) -> int:
    return sum(
        version["problem"] is not None for task in REASONS for version in get(process, f"/adapters/{task}")["versions"]
    )


def test_it_starts_and_answers_what_is_whole(process: Process) -> None:
    assert process.ready()
    for task in ("whole", "embedding"):
        assert predict(process, task).status_code == 200
        assert told(process, task)["reason"] is None


@pytest.mark.parametrize("task", REASONS)
def test_a_damaged_task_tells_why_it_is_not_served_and_a_good_upload_repairs_it(
    process: Process, good: bytes, task: str
) -> None:
    damaged = told(process, task)
    assert damaged["version"] is None
    assert REASONS[task] in damaged["reason"]
    answer = predict(process, task)
    assert (answer.status_code, answer.json()["code"]) == (
        (404, "unknown_task") if task in REPAIRED else (422, "bad_adapter")
    )
    assert damaged["reason"] in answer.json()["detail"]
    before = metric(process.url, "rootstock_refused_adapters")
    assert before == refused(process)

    uploaded = httpx2.put(f"{process.url}/adapters/{task}", content=good, timeout=PATIENCE)
    assert uploaded.status_code == 201, uploaded.text
    answered = predict(process, task).json()
    assert (answered["version"], answered["digest"]) == (2, uploaded.json()["digest"])
    assert told(process, task)["reason"] is None
    # A damaged file stays until somebody deletes it; a whole one is served again once its state is.
    process.wait_until(lambda: metric(process.url, "rootstock_refused_adapters") == before - (task in REPAIRED))
    activated = httpx2.post(f"{process.url}/adapters/{task}/activate", json={"version": 1}, timeout=PATIENCE)
    assert activated.status_code == (200 if task in REPAIRED else 422), activated.text
