"""The report of a training as one HTML page: figures, labels, confusions and the learning curve, without a script."""

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

WIDTH, HEIGHT, MARGIN = 560, 220, 36  # of a picture, pixels


def render(report: dict[str, Any]) -> str:
    """The page for a report of `training.run`."""
    environment = Environment(
        loader=PackageLoader("service.training", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}"
    final = report["measured"].get("test") or report["measured"]["validation"]
    page = environment.get_template("report.html")
    return page.render(
        report=report,
        final=final,
        curve=_curve(report["curve"], report["best_epoch"]),
        shades=_shades(final["confusion"]),
    )


def _curve(values: Sequence[float], best: int) -> dict[str, Any]:
    """Points of the learning curve in a picture's pixels, the axis' ends, and where the kept epoch, `best`, lies."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    right, down = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
    points = [
        (
            round(MARGIN + right * (index / max(1, len(values) - 1)), 1),
            round(HEIGHT - MARGIN - down * (value - low) / span, 1),
        )
        for index, value in enumerate(values)
    ]
    return {
        "points": points,
        "line": " ".join(f"{x},{y}" for x, y in points),
        "low": low,
        "high": high,
        "best": points[best - 1],
        "width": WIDTH,
        "height": HEIGHT,
        "margin": MARGIN,
    }


def _shades(table: Sequence[Sequence[int]] | None) -> list[list[float]] | None:
    """How dark each cell of the confusion matrix is: its share of the row."""
    if table is None:
        return None
    return [[round(cell / max(1, sum(row)), 3) for cell in row] for row in table]
