"""The table of metrics as a page."""

from itertools import groupby
from typing import Any

from service.metrics import OTHER, PROCESS, ROWS, Row

HEAD = f"""\
# Metrics

All that `/metrics` exposes, in Prometheus' text format. `make docs` writes this page, and the dashboard in
`deploy/grafana`, from the table in `service/metrics/table.py`. What to watch, and what alerts mean, is in
[operating.md](operating.md#metrics-and-alerts).

The label `task` has no more than `--metrics-tasks` values: the busiest tasks have one of their own, and the rest share
`{OTHER}`, which no task can be called. While there is room, a new task gets its own. Every ten minutes, at a scrape, a
task without one takes over the label of one that had less than half of its requests. Then the series of that one end,
and those of the other begin at nothing. No counter ever falls, and the increases of all labels add up to what happened,
however labels change hands. With several scrapers, all but the one whose scrape brought the change may miss what the
last interval of a series held, as at any end of a series. A service with 500 tasks exposes less than 300 KB. Gradual
releases are told by task without a limit, as long as they last.
"""


def page() -> str:
    """docs/metrics.md."""
    return HEAD + "".join(_section(title, list(rows)) for title, rows in groupby((*ROWS, *PROCESS), _title))


def _title(row: Row[Any]) -> str:
    return row.section


def _section(title: str, rows: list[Row[Any]]) -> str:
    lines = "".join(
        f"| `{row.exposed}` | {row.kind} | {', '.join(f'`{label}`' for label in row.labels)} | {_meaning(row)} |\n"
        for row in rows
    )
    return f"\n## {title}\n\n| metric | type | labels | what it is |\n|---|---|---|---|\n{lines}"


def _meaning(row: Row[Any]) -> str:
    return row.help.replace("|", "\\|")
