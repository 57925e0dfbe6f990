"""What the README and the docs tell a reader to type does what they say."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree, which

import httpx2
import pytest

from quality import RESULT, table
from service.adapters.file import digest
from service.api.app import create_app
from service.client import Client
from service.engine.arranging import load_resident
from service.engine.base_model import BaseModel
from service.settings import Settings
from tests.live import listening

ROOT = Path(__file__).parent.parent
SAID = "127.0.0.1:8000"  # the address in the docs


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def url(real_base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service as a reader has it: the shipped adapters, in a store that may be written to."""
    store = copytree(ROOT / "adapters_store", tmp_path_factory.mktemp("docs") / "store")
    with listening(create_app(Settings(store=store), real_base)) as url:
        yield url


@pytest.mark.skipif(which("curl") is None, reason="the README asks with curl")
@pytest.mark.parametrize(
    "block",
    [
        block
        for page in ("README.md", "docs/getting-started.md", "docs/protocols.md", "docs/releases.md")
        for block in blocks(page, "sh")
    ],
    ids=["ask", "add", "ask otherwise", "infer", "embed", "release"],
)
def test_shell_commands_print_what_they_promise(block: str, url: str, tmp_path: Path) -> None:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "-euc", block.replace(SAID, url.removeprefix("http://"))],
        cwd=tmp_path,
        env=os.environ | {"PATH": programs, "ROOTSTOCK_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    promises = re.findall(r"^# (.+)$", block, re.MULTILINE)
    assert promises
    for promise in promises:
        assert promise in run.stdout


def test_the_python_of_the_first_steps_runs(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks("docs/getting-started.md", "python"):
        exec(block.replace(f"http://{SAID}", url), {})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["positive", "negative"]


@pytest.mark.slow  # these are the protocols' own clients, which `make soak` installs
@pytest.mark.parametrize("block", blocks("docs/protocols.md", "python"), ids=["triton", "openai"])
def test_other_clients_print_what_the_docs_promise(block: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(block.replace(SAID, url.removeprefix("http://")), {})
    assert capsys.readouterr().out == re.findall(r"^# (.+\n)$", block, re.MULTILINE)[0]


def test_a_file_written_as_the_docs_show_is_an_adapter(
    real_base: BaseModel, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks("docs/adapter-file.md", "python"):
        exec(block, {})
    data = (tmp_path / "polite-1.safetensors").read_bytes()
    assert load_resident(real_base, data, version=1).digest == digest(data)
    with Client(url) as client:
        client.push("polite", data)
        assert client.predict("polite", "Please, after you.")[0]["score"] == pytest.approx(0.5)


def test_the_docs_name_every_route_of_other_protocols(url: str) -> None:
    head = (ROOT / "docs/protocols.md").read_text().split("##")[0]
    table = "\n".join(re.findall(r"^\|.*", head, re.MULTILINE))
    served = httpx2.get(f"{url}/openapi.json").json()["paths"]
    named = {path.replace("{v}", "{version}") for path in re.findall(r"`(?:GET |POST )?(/[a-z0-9{}/]+)`", table)}
    assert named == {path for path in served if path.startswith(("/v1", "/v2", "/embed"))} | {"/healthz", "/readyz"}


PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_the_docs_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        if not target.startswith("https://"):
            led = page.parent / target if target else page
            assert led.exists(), target
            assert not anchor or anchor in anchors(led), (target, anchor)


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[a-z-]+\.md)\)", (ROOT / "README.md").read_text()))
    assert linked == {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}


def test_the_readmes_figures_are_those_measured() -> None:
    assert table(json.loads(RESULT.read_text())) in (ROOT / "README.md").read_text()
