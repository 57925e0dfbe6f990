"""The pages of the reference are those that the code makes."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from service.cli import main
from service.cli.reference import PAGES
from service.metrics import PROCESS, ROWS
from service.settings import Settings, flag_name
from tests.api.test_operations import ROUTES

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("name", list(PAGES))
def test_a_page_is_the_one_that_the_code_makes(name: str) -> None:
    written = (DOCS / f"{name}.md").read_text()
    assert written == CliRunner().invoke(main, ["reference", name]).output, "run make docs"


def test_every_setting_metric_and_call_has_its_place() -> None:
    settings, metrics, http = ((DOCS / f"{name}.md").read_text() for name in ("settings", "metrics", "http"))
    assert [name for name in Settings.model_fields if f"`{flag_name(name)}`" not in settings] == []
    assert [row for row in (*ROWS, *PROCESS) if f"| `{row.exposed}` | {row.kind} |" not in metrics] == []
    assert [route for route in ROUTES if f"\n## {route[0].upper()} {route[1]}\n" not in http] == []
