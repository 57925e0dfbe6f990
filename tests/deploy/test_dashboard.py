"""The dashboard is the one that the table of metrics makes, shows every family, and names nothing that is not there."""

import json
from typing import Any

import pytest
import yaml

from dashboard import PATH, dashboard
from service.metrics import PROCESS, ROWS
from tests.deploy.rules import DEPLOY, exposed, names, recorded


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(PATH.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def test_it_is_the_one_that_the_table_makes() -> None:
    assert PATH.read_text() == dashboard(), "run make docs"


def test_every_panel_draws_something_that_exists() -> None:
    known = exposed() | set(recorded())
    for panel in panels():
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert names(target["expr"]), target["expr"]
            assert names(target["expr"]) <= known, target["expr"]


def test_every_family_and_every_recorded_series_is_shown() -> None:
    shown = set().union(*map(names, expressions()))
    missing = [row.exposed for row in (*ROWS, *PROCESS) if not shown & {row.exposed, f"{row.exposed}_bucket"}]
    assert missing == []
    assert set(recorded()) - shown == {"job:rootstock_requests:rate5m"}  # the sum of what is shown by outcome


def test_panels_have_places_and_numbers_of_their_own() -> None:
    everything = json.loads(PATH.read_text())["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken = set[tuple[int, int]]()
    for panel in everything:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells
        assert at["x"] + at["w"] <= 24
        taken |= cells


@pytest.mark.parametrize("name", ["datasources/prometheus.yml", "dashboards/rootstock.yml"])
def test_grafana_is_told_where_it_is(name: str) -> None:
    provisioned = yaml.safe_load((DEPLOY / "grafana" / "provisioning" / name).read_text())
    [entry] = provisioned[name.split("/")[0] if name.startswith("data") else "providers"]
    assert provisioned["apiVersion"] == 1
    if name.startswith("data"):
        assert (entry["type"], entry["url"], entry["isDefault"]) == ("prometheus", "http://prometheus:9090", True)
    else:
        assert (entry["type"], entry["options"]["path"]) == ("file", "/var/lib/grafana/dashboards")
