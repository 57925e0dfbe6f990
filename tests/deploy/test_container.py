"""The container: files that say what they should, and the steps of the Dockerfile, taken by another user."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import httpx2
import pytest
import yaml

from service.client import NEVER, Client
from service.settings import Settings, environment_name
from tests.deploy.dockerfile import ROOT, Image, instructions

USER = 10001
PATIENCE = 120.0  # seconds


def test_the_last_stage_runs_as_a_user_that_is_not_root_and_says_how_it_is() -> None:
    found = list(instructions())
    last = found[max(place for place, (name, _) in enumerate(found) if name == "FROM") :]
    assert ("USER", str(USER)) in last
    assert [name for name, _ in last][-3:] == ["EXPOSE", "HEALTHCHECK", "CMD"]


def test_every_file_that_is_copied_is_there_and_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    for name, rest in instructions():
        if name == "COPY" and "--from" not in rest:
            *sources, _ = re.sub(r"--\S+\s+", "", rest).split()
            assert [source for source in sources if source in ignored or not (ROOT / source).exists()] == []


def test_compose_sets_what_the_service_knows_and_mounts_what_is_there() -> None:
    variables = {environment_name(name) for name in Settings.model_fields}
    for file in (ROOT / "docker-compose.yml", ROOT / "deploy" / "compose-cuda.yml"):
        services = yaml.safe_load(file.read_text())["services"]
        assert services["rootstock"]["environment"].keys() <= variables
        for service in services.values():
            for mounted in service.get("volumes", ()):
                source = mounted.split(":")[0]
                assert not source.startswith(".") or (ROOT / source).is_dir(), source
            assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_prometheus_scrapes_the_service_by_its_name_in_compose() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    [target] = config["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target.partition(":")[0] in services
    assert target.partition(":")[0] in services["rootstock"]["environment"]["ROOTSTOCK_HOSTS"]


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that other users reach too."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def runs_for(user: int | None) -> str:
    """A Python that this user may run."""
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            subprocess.run([os.path.realpath(python), "-c", ""], user=user, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return os.path.realpath(python)
    raise AssertionError(f"there is no Python here that user {user} may run")


@pytest.mark.slow
def test_its_steps_give_a_service_that_another_user_runs_and_that_writes_to_its_volumes_alone() -> None:
    user = USER if os.getuid() == 0 else None
    with open_folder() as folder, socket.socket() as free:
        image = Image(folder, runs_for(user), user)
        assert image.user == str(USER)
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        free.close()
        temporary = folder / "tmp"
        temporary.mkdir()
        temporary.chmod(0o777)
        before = written(folder)
        environment = image.environment | {
            "ROOTSTOCK_PORT": port,
            "ROOTSTOCK_ALLOW_ANYONE": "true",
            "ROOTSTOCK_TRACES": "true",
            "TMPDIR": str(temporary),
        }
        command = [shutil.which(image.command[0], path=environment["PATH"]) or "", *image.command[1:]]
        assert command[0].startswith(str(folder))
        with open(folder / "tmp" / "log", "wb") as log:
            process = subprocess.Popen(
                command, cwd=image.work, env=environment, user=user, stdout=log, stderr=log, umask=0o022
            )
            try:
                probe = [f"{folder}/venv/bin/python", *(part.replace("8000", port) for part in image.health[1:])]
                give_up = monotonic() + PATIENCE
                while subprocess.run(probe, user=user, stderr=subprocess.DEVNULL, check=False).returncode:
                    assert process.poll() is None, (folder / "tmp" / "log").read_text()
                    assert monotonic() < give_up
                    sleep(0.5)
                url = f"http://127.0.0.1:{port}"
                until_ready(url)
                with Client(url, retry=NEVER) as client:
                    assert client.predict("sentiment", "A warm, clever film.")[0]["label"] == "positive"
                    shipped = (ROOT / "adapters_store" / "spam-1.safetensors").read_bytes()
                    assert client.push("mine", shipped)["version"] == 1
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE) == 0
            finally:
                process.kill()
                process.wait()
        new = {path for path in written(folder) - before if not path.startswith("tmp/")}
        store = {".lock", ".changing", "mine-1.safetensors", "mine.json"}
        assert new == {f"srv/rootstock/adapters_store/{name}" for name in store}


def until_ready(url: str) -> None:
    give_up = monotonic() + PATIENCE
    while not httpx2.get(f"{url}/readyz").is_success:
        assert monotonic() < give_up
        sleep(0.2)


def written(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
