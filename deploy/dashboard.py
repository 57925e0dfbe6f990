"""The Grafana dashboard, made from the table of metrics: an overview by the recording rules, then a panel a family.

`make docs` writes it to deploy/grafana/dashboards/rootstock.json.
"""

from collections.abc import Iterable, Iterator
from itertools import count, groupby
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders.common import VizLegendOptions, VizTooltipOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable
from grafana_foundation_sdk.builders.dashboard import Row as Heading
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableRefresh,
)

from service.metrics import PROCESS, ROWS, Row

PATH = Path(__file__).parent / "grafana" / "dashboards" / "rootstock.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
SELECT = 'job="$job",instance=~"$instance"'
HEIGHT, SPAN = 8, 8  # of 24 columns

# title, unit, and what is drawn: expression and legend
OVERVIEW = [
    ("Requests", "reqps", [('job_outcome:rootstock_requests:rate5m{job="$job"}', "{{outcome}}")]),
    (
        "Latency",
        "s",
        [
            ('job:rootstock_request_seconds:p50_5m{job="$job"}', "p50"),
            ('job:rootstock_request_seconds:p99_5m{job="$job"}', "p99"),
            ('job:rootstock_request_queue_seconds:p99_5m{job="$job"}', "p99 of the queue"),
            ('job:rootstock_request_engine_seconds:p99_5m{job="$job"}', "p99 of the engine"),
        ],
    ),
    (
        "Failed and turned away",
        "percentunit",
        [
            ('job:rootstock_errors:ratio_rate5m{job="$job"}', "failed"),
            ('job:rootstock_overload:ratio_rate5m{job="$job"}', "turned away"),
        ],
    ),
    ("The busiest tasks", "reqps", [('topk(10, job_task:rootstock_requests:rate5m{job="$job"})', "{{task}}")]),
    (
        "The slowest tasks, p99",
        "s",
        [('topk(10, job_task:rootstock_request_seconds:p99_5m{job="$job"})', "{{task}}")],
    ),
    ("Engine busy", "percentunit", [('job:rootstock_engine_busy:ratio_rate5m{job="$job"}', "of the time")]),
    (
        "The mean batch",
        "short",
        [
            ('job:rootstock_batch_rows:mean5m{job="$job"}', "rows"),
            ('job:rootstock_batch_tasks:mean5m{job="$job"}', "adapters"),
        ],
    ),
    ("Tokens", "short", [('job:rootstock_tokens:rate5m{job="$job"}', "a second")]),
    ("Evictions for each request", "short", [('job:rootstock_evictions:per_request5m{job="$job"}', "evictions")]),
]


def dashboard() -> str:
    """The dashboard as JSON."""
    made = (
        Dashboard("Rootstock")
        .uid("rootstock")
        .description("Many text tasks from one frozen transformer. Made by deploy/dashboard.py.")
        .tags(["rootstock"])
        .readonly()
        .refresh("30s")
        .time("now-1h", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(DatasourceVariable("source").label("Source").type("prometheus"))
        .with_variable(_variable("job", "label_values(rootstock_ready, job)"))
        .with_variable(
            _variable("instance", 'label_values(rootstock_ready{job="$job"}, instance)').multi(True).include_all(True)
        )
    )
    number = count(1)
    made.with_row(Heading("Overview").id(next(number)))
    for title, unit, drawn in OVERVIEW:
        made.with_panel(_panel(title, "", unit, drawn).id(next(number)))
    for section, rows in groupby((*ROWS, *PROCESS), lambda row: row.section):
        made.with_row(Heading(section).id(next(number)))
        for row in rows:
            made.with_panel(_panel(row.exposed, row.help, _unit(row), _drawn(row)).id(next(number)))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _drawn(row: Row[Any]) -> Iterator[tuple[str, str]]:
    """What is worth seeing of a family: how fast it grows, how it is spread, or how much it is."""
    by = ", ".join(row.labels)
    legend = " ".join(f"{{{{{label}}}}}" for label in row.labels) or "{{instance}}"
    if row.kind == "counter":
        yield f"sum by ({by or 'instance'}) (rate({row.name}{{{SELECT}}}[$__rate_interval]))", legend
    elif row.kind == "histogram":
        buckets = f"sum by (le) (rate({row.name}_bucket{{{SELECT}}}[$__rate_interval]))"
        for quantile in (0.5, 0.9, 0.99):
            yield f"histogram_quantile({quantile}, {buckets})", f"p{quantile * 100:g}"
    elif row.name.endswith("_start_time_seconds"):
        yield f"time() - {row.name}{{{SELECT}}}", legend  # how long ago
    elif row.kind == "info":
        yield f"{row.exposed}{{{SELECT}}}", "{{instance}} {{version}} {{base}} {{dtype}} {{device}} {{kernels}}"
    else:
        yield f"{row.name}{{{SELECT}}}", legend


def _unit(row: Row[Any]) -> str:
    """Grafana's name of it."""
    if row.name == "process_cpu_seconds_total":
        return "percentunit"  # of one core
    units = {"_seconds": "s", "_bytes": "bytes"}
    return next((unit for suffix, unit in units.items() if row.name.endswith(suffix)), "short")


def _panel(title: str, help: str, unit: str, drawn: Iterable[tuple[str, str]]) -> Panel:
    panel = (
        Panel()
        .title(title)
        .description(help)
        .datasource(SOURCE)
        .unit(unit)
        .height(HEIGHT)
        .span(SPAN)
        .min(0)
        .fill_opacity(10)
        .legend(
            VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
        )
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    for place, (expression, legend) in enumerate(drawn):
        panel.with_target(
            Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + place)).datasource(SOURCE).range()
        )
    return panel


def _variable(name: str, query: str) -> QueryVariable:
    return QueryVariable(name).query(query).datasource(SOURCE).refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)


if __name__ == "__main__":
    PATH.write_text(dashboard())
