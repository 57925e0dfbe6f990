"""What the OpenAPI document says is what the service does: Schemathesis makes requests of it and judges the answers."""

import subprocess
import sys
from pathlib import Path

import pytest

from service.api.keys import KeysFile
from service.client import Client
from service.engine.base_model import BaseModel
from tests.test_processes import Start, start
from tests.tiny import make_adapter

__all__ = ["start"]  # a fixture

# What may be refused is more than the document can say: an empty text, another form of input than the task's.
UNSAID = "positive_data_acceptance"
# The document is that of a service with keys; one without does not ask for them.
WITHOUT_KEYS = ("ignored_auth", "missing_required_header", "negative_data_rejection")
# A name that is made is no task's, so one that is there is asked for; a time that is over at once is nobody's fault.
CONFIG = """
[parameters]
"path.task" = "mood"

[checks]
not_a_server_error.expected-statuses = ["2xx", "4xx", 504]
"""


def judged(url: str, folder: Path, unchecked: tuple[str, ...], key: str = "") -> "subprocess.CompletedProcess[str]":
    (folder / "schemathesis.toml").write_text(CONFIG)
    command = [str(Path(sys.executable).parent / "st"), "--config-file", str(folder / "schemathesis.toml"), "run"]
    command += [f"{url}/openapi.json", "--checks", "all", "--exclude-checks", ",".join((UNSAID, *unchecked))]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", "50", "--no-color", "--warnings", "off"]
    command += ["--header", f"Authorization: Bearer {key}"] if key else []
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_answer_is_as_documented(start: Start, tmp_path: Path, tiny_base: BaseModel) -> None:
    process = start()
    with Client(process.url) as client:
        client.push("mood", make_adapter(tiny_base, seed=1))
        client.push("mood", make_adapter(tiny_base, seed=2))
    found = judged(process.url, tmp_path, WITHOUT_KEYS)
    assert found.returncode == 0, found.stdout


@pytest.mark.slow
def test_every_answer_is_as_documented_where_there_are_keys(start: Start, tmp_path: Path, tiny_base: BaseModel) -> None:
    key = KeysFile(tmp_path / "keys.json").add("all", ["admin"], None)
    process = start("--keys-file", str(tmp_path / "keys.json"))
    with Client(process.url, key=key) as client:
        client.push("mood", make_adapter(tiny_base, seed=1))
        client.push("mood", make_adapter(tiny_base, seed=2))
    found = judged(process.url, tmp_path, (), key)
    assert found.returncode == 0, found.stdout
