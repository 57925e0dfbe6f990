"""Prometheus takes the configuration and the rules, each alert fires on its cause, and its meaning is written down."""

import re
import subprocess
from pathlib import Path
from shutil import which

import pytest
import yaml

from tests.deploy.rules import CONFIG, DEPLOY, RULE_FILES, alerts, exposed, names, recorded, rules
from tests.deploy.test_dashboard import expressions

TESTS = Path(__file__).parent / "rules.yml"
GUIDE = DEPLOY.parent / "docs" / "operating.md"


def test_every_rule_reads_what_exists() -> None:
    known = exposed() | set(recorded())
    for rule in rules():
        assert names(rule["expr"]) <= known, rule["expr"]


def test_every_alert_says_how_bad_it_is_and_what_has_happened() -> None:
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert rule["annotations"].keys() == {"summary", "description"}


def test_every_alert_has_its_line_in_the_guide() -> None:
    assert re.findall(r"^\| `(Rootstock\w+)`", GUIDE.read_text(), re.MULTILINE) == alerts()


def test_every_alert_has_a_test_in_which_it_fires() -> None:
    assert set(re.findall(r'alertname="(\w+)"', TESTS.read_text())) == set(alerts())


def test_the_configuration_reads_the_rules_and_scrapes_the_service() -> None:
    config = yaml.safe_load(CONFIG.read_text())
    assert config["rule_files"] == [file.name for file in RULE_FILES]
    assert config["scrape_configs"][0]["job_name"] == "rootstock"


def promtool(*arguments: str | Path) -> None:
    program = which("promtool")
    assert program, "promtool is needed: it comes with Debian's package prometheus"
    run = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
def test_promtool_takes_the_configuration_and_the_rules() -> None:
    promtool("check", "config", "--lint-fatal", CONFIG)
    promtool("check", "rules", "--lint-fatal", *RULE_FILES)


@pytest.mark.slow
def test_every_alert_fires_on_its_cause_in_its_time_and_on_nothing_else() -> None:
    promtool("test", "rules", TESTS)


@pytest.mark.slow
def test_promtool_reads_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    drawn = [
        {"record": f"panel:{place}", "expr": expression.replace("$__rate_interval", "5m")}
        for place, expression in enumerate(expressions())
    ]
    file = tmp_path / "drawn.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "drawn", "rules": drawn}]}))
    promtool("check", "rules", file)
