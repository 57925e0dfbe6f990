"""The report of a training as one HTML page: figures, labels, confusions and the learning curve, without a script."""

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

WIDTH, HEIGHT, MARGIN = 560, 220, 48  # of a picture, pixels


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
    kept = report["best_epoch"]
    training, validation = zip(*report["losses"], strict=True)
    return page.render(
        report=report,
        final=final,
        curve=_chart([report["curve"]], kept, lambda value: f"{100 * value:.1f}"),
        losses=_chart([validation, training], kept, lambda value: f"{value:.3f}"),
        shades=_shades(final["confusion"]),
    )


def _chart(lines: Sequence[Sequence[float]], kept: int, show: Callable[[float], str]) -> dict[str, Any]:
    """Lines over the epochs in a picture's pixels, the axis' ends, and where the kept epoch lies on the first line."""
    finite = [value for line in lines for value in line if isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    span = (high - low) or 1.0
    right, down = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
    points = [
        [
            (
                round(MARGIN + right * (index / max(1, len(line) - 1)), 1),
                round(HEIGHT - MARGIN - down * ((value if isfinite(value) else high) - low) / span, 1),
            )
            for index, value in enumerate(line)
        ]
        for line in lines
    ]
    return {
        "lines": points,
        "low": show(low),
        "high": show(high),
        "kept": points[0][kept - 1],
        "width": WIDTH,
        "height": HEIGHT,
        "margin": MARGIN,
    }


def _shades(table: Sequence[Sequence[int]] | None) -> list[list[float]] | None:
    """How dark each cell of the confusion matrix is: its share of the row."""
    if table is None:
        return None
    return [[round(cell / max(1, sum(row)), 3) for cell in row] for row in table]
