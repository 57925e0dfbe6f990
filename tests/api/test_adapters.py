"""Uploads, versions, and what is served: each change is there at once, and after a restart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.adapters.file import digest
from service.engine.base_model import BaseModel
from tests.api.harness import Harness, assert_problem, harness
from tests.tiny import LABELS, make_adapter

Make = Callable[[int], bytes]


@pytest.fixture
def make(tiny_base: BaseModel) -> Make:
    """An adapter file by its seed."""
    return lambda seed: make_adapter(tiny_base, seed=seed)


def test_a_fresh_service_serves_the_bare_base_alone(service: Harness) -> None:
    assert set(service.tasks()) == {"embedding"}


def test_an_upload_is_served_from_the_next_request_on(service: Harness, make: Make) -> None:
    data = make(1)
    response = service.put("mood", data)
    assert response.status_code == 201
    assert response.json() == {
        "task": "mood",
        "version": 1,
        "digest": digest(data),
        "bytes": len(data),
        "state": "active",
        "problem": None,
        "proof": {
            "precision": "float32",
            "sealed": True,
            "golden": 0,
            "off": None,
            "tolerance": None,
            "change": response.json()["proof"]["change"],
            "strangers": 0,
        },
    }
    assert response.json()["proof"]["change"] > 0.01
    assert service.predict("mood", "good film").json()["digest"] == digest(data)


def test_a_second_file_is_the_next_version_and_answers_differently(service: Harness, make: Make) -> None:
    service.upload("mood", make(1))
    before = service.answers("mood", "good film")
    assert service.upload("mood", make(2)) == 2
    assert service.predict("mood", "good film").json()["version"] == 2
    assert service.answers("mood", "good film") != before
    assert service.answers("mood", "good film", version=1) == before


def test_the_same_bytes_keep_their_version(service: Harness, make: Make) -> None:
    first = service.put("mood", make(1)).json()
    response = service.put("mood", make(1))
    assert response.status_code == 200
    assert response.json() == first
    assert len(service.get("/adapters/mood")["versions"]) == 1


def test_known_bytes_are_activated_again(service: Harness, make: Make) -> None:
    service.upload("mood", make(1))
    service.upload("mood", make(2))
    response = service.put("mood", make(1))
    assert (response.status_code, response.json()["version"], response.json()["state"]) == (200, 1, "active")
    assert service.predict("mood", "good film").json()["version"] == 1


def test_the_same_bytes_may_be_two_tasks(service: Harness, make: Make) -> None:
    assert service.upload("mood", make(1)) == service.upload("feeling", make(1)) == 1
    assert service.answers("mood", "good film") == service.answers("feeling", "good film")


def test_activate_false_stores_and_does_not_serve(service: Harness, make: Make) -> None:
    service.upload("mood", make(1))
    response = service.put("mood", make(2), activate=False)
    assert (response.status_code, response.json()["version"], response.json()["state"]) == (201, 2, "inactive")
    assert service.predict("mood", "good film").json()["version"] == 1
    assert service.predict("mood", "good film", version=2).json()["version"] == 2


def test_a_task_of_inactive_versions_is_not_served_until_one_is_activated(service: Harness, make: Make) -> None:
    service.upload("mood", make(1), activate=False)
    assert "mood" not in service.tasks()
    assert_problem(service.http.get("/tasks/mood"), 404, "unknown_task", "'mood' is not served")
    assert_problem(service.predict("mood", "good film"), 404, "unknown_task", "no active version")
    assert service.http.post("/adapters/mood/activate", json={"version": 1}).status_code == 200
    assert service.predict("mood", "good film").json()["version"] == 1


def test_activation_goes_back_and_forth(service: Harness, make: Make) -> None:
    scores = {}
    for seed in (1, 2):
        service.upload("mood", make(seed))
        scores[seed] = service.answers("mood", "good film")
    for version in (1, 2, 1):
        response = service.http.post("/adapters/mood/activate", json={"version": version})
        assert (response.status_code, response.json()["state"]) == (200, "active")
        assert service.answers("mood", "good film") == scores[version]
        assert service.get("/adapters/mood")["active"] == version
        assert service.tasks()["mood"]["version"] == version


def test_answers_and_headers_say_which_version_they_are_of(service: Harness, make: Make) -> None:
    for seed in (1, 2):
        service.upload("mood", make(seed))
    for version, parameters in ((2, {}), (1, {"version": 1})):
        response = service.predict("mood", "good film", **parameters)
        said = response.headers["Rootstock-Version"], response.headers["Rootstock-Digest"]
        assert said == (str(version), digest(make(version)))
        assert said == (str(response.json()["version"]), response.json()["digest"])


def test_every_answer_of_one_task_has_the_headers(service: Harness, make: Make, tiny_base: BaseModel) -> None:
    """In whatever protocol, and in bytes too."""
    service.upload("mood", make(1))
    tensors = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["good film"]}]}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("/predict/mood", {"inputs": "good film"}),
        ("/predict", {"inputs": "good film", "tasks": ["mood"]}),
        ("/v2/models/mood/infer", tensors),
        ("/v2/models/mood/infer", tensors | {"parameters": {"binary_data_output": True}}),
        ("/v2/models/mood/versions/1/infer", tensors),
        ("/embed", {"inputs": "good film"}),
        ("/v1/embeddings", {"input": "good film", "model": "embedding"}),
    ]
    for path, body in calls:
        response = service.http.post(path, json=body)
        assert response.status_code == 200, response.text
        expected = ("1", digest(make(1))) if "embed" not in path else ("0", tiny_base.fingerprint)
        assert (response.headers["Rootstock-Version"], response.headers["Rootstock-Digest"]) == expected
    several = service.http.post("/predict", json={"inputs": "good film", "tasks": ["mood", "embedding"]})
    assert "Rootstock-Version" not in several.headers


def test_the_log_tells_who_changed_what(service: Harness, make: Make) -> None:
    first, second = digest(make(1)), digest(make(2))
    service.upload("mood", make(1))
    service.upload("mood", make(2), activate=False)
    service.http.post("/adapters/mood/activate", json={"version": 2})
    service.http.post("/adapters/mood/activate", json={"version": 2})  # nothing changes
    service.put("mood", make(1))  # known, and active again
    service.put("mood", make(1)[:-1])  # refused
    service.http.delete("/adapters/mood/versions/2")
    service.http.delete("/adapters/mood")
    told = service.get("/adapters/mood/log")
    assert told["task"] == "mood"
    parts = ("did", "version", "digest", "before", "after")
    assert [tuple(entry[part] for part in parts) for entry in told["entries"]] == [
        ("upload", 1, first, None, 1),
        ("upload", 2, second, 1, 1),
        ("activate", 2, second, 1, 2),
        ("activate", 1, first, 2, 1),
        ("delete", 2, second, 1, 1),
        ("retire", None, None, 1, None),
        ("delete", 1, first, None, None),
    ]
    assert {entry["by"] for entry in told["entries"]} == {"testclient"}
    assert [entry["at"] for entry in told["entries"]] == sorted(entry["at"] for entry in told["entries"])
    assert [entry["proof"] is None for entry in told["entries"]] == [False] * 4 + [True] * 3
    assert_problem(service.http.get("/adapters/nope/log"), 404, "unknown_task", "'nope'")


def test_versions_are_listed_with_their_state(service: Harness, make: Make) -> None:
    for seed in (1, 2, 3):
        service.upload("mood", make(seed), activate=seed != 3)
    listed = service.get("/adapters/mood")
    assert (listed["task"], listed["active"]) == ("mood", 2)
    assert [(one["version"], one["state"]) for one in listed["versions"]] == [
        (1, "inactive"),
        (2, "active"),
        (3, "inactive"),
    ]
    assert [one["digest"] for one in listed["versions"]] == [digest(make(seed)) for seed in (1, 2, 3)]


def test_a_file_comes_back_as_it_was_sent(service: Harness, make: Make) -> None:
    service.upload("mood", make(1))
    service.upload("mood", make(2))
    for version in (1, 2):
        response = service.http.get(f"/adapters/mood/versions/{version}")
        assert response.content == make(version)
        assert response.headers["Content-Type"] == "application/octet-stream"
        assert f'filename="mood-{version}.safetensors"' in response.headers["Content-Disposition"]


def test_a_deleted_version_is_gone_and_its_number_is_not_used_again(service: Harness, make: Make) -> None:
    service.upload("mood", make(1))
    service.upload("mood", make(2))
    assert service.http.delete("/adapters/mood/versions/1").status_code == 204
    assert [one["version"] for one in service.get("/adapters/mood")["versions"]] == [2]
    assert_problem(service.predict("mood", "x", version=1), 404, "unknown_version", "mood has no version 1")
    assert_problem(service.http.get("/adapters/mood/versions/1"), 404, "unknown_version", "mood has no version 1")
    assert not (service.store / "mood-1.safetensors").exists()
    assert service.upload("mood", make(1)) == 3


def test_a_retired_task_is_gone_and_its_neighbour_is_not(service: Harness, make: Make) -> None:
    service.upload("mood", make(1))
    service.upload("colour", make(2))
    assert service.http.delete("/adapters/mood").status_code == 204
    assert set(service.tasks()) == {"colour", "embedding"}
    assert_problem(service.predict("mood", "good film"), 404, "unknown_task", "mood")
    assert service.predict("colour", "good film").status_code == 200
    assert not list(service.store.glob("mood*.safetensors"))
    assert service.upload("mood", make(3)) == 2


def test_a_task_tells_what_it_reads_and_answers(service: Harness, tiny_base: BaseModel) -> None:
    service.upload("same", make_adapter(tiny_base, pair=True, description="Whether two texts agree."))
    task = service.get("/tasks/same")
    assert task == service.tasks()["same"]
    assert (task["kind"], task["labels"], task["pair"]) == ("classification", list(LABELS), True)
    assert (task["method"], task["metric"], task["value"]) == ("houlsby", "accuracy", 0.5)
    assert (task["version"], task["resident"]) == (1, True)
    assert task["description"] == "Whether two texts agree."
    assert task["parameters"] > 0


def test_the_bare_base_is_a_task_like_any_other(service: Harness, tiny_base: BaseModel) -> None:
    task = service.get("/tasks/embedding")
    assert (task["kind"], task["version"], task["parameters"]) == ("embedding", 0, 0)
    assert task["digest"] == tiny_base.fingerprint


def test_everything_is_there_after_a_restart(tmp_path: Path, tiny_base: BaseModel, make: Make) -> None:
    with harness(tmp_path, tiny_base) as service:
        for seed in (1, 2, 3):
            service.upload("mood", make(seed))
        service.upload("colour", make(4))
        service.upload("gone", make(5))
        service.http.post("/adapters/mood/activate", json={"version": 2})
        service.http.delete("/adapters/gone")
        before, logs = service.state(), [service.get(f"/adapters/{task}/log") for task in ("mood", "gone")]
    with harness(tmp_path, tiny_base) as service:
        assert service.state() == before
        assert [service.get(f"/adapters/{task}/log") for task in ("mood", "gone")] == logs
        assert service.upload("gone", make(6)) == 2


def test_a_damaged_file_in_the_store_is_told_of_and_keeps_nobody_from_being_served(
    tmp_path: Path, tiny_base: BaseModel, make: Make
) -> None:
    (tmp_path / "mood-1.safetensors").write_bytes(make(1)[:-1])
    (tmp_path / "colour-1.safetensors").write_bytes(make(2))
    with harness(tmp_path, tiny_base) as service:
        assert set(service.tasks()) == {"colour", "embedding", "mood"}
        assert service.predict("colour", "good film").status_code == 200
        [version] = service.get("/adapters/mood")["versions"]
        assert version["state"] == "refused"
        assert "cut short" in version["problem"]
        assert_problem(service.predict("mood", "good film"), 422, "bad_adapter", "cannot be served: .*cut short")
        task = service.get("/tasks/mood")
        assert (task["active"], task["version"], task["reason"]) == (1, None, version["problem"])
        assert service.upload("mood", make(1)) == 2
        assert service.predict("mood", "good film").json()["version"] == 2
