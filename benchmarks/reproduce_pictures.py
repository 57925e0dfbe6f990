"""The pictures of the experiment, after the adapter paper's figures 3, 4 and 6.

Each function gives None where the trainings that it shows are not there. The same results give the same bytes.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

import drawing
from reproduce import EXPERIMENTS, FEW, LINES
from reproduce_results import Results, metric_name, yardstick

FULL = yardstick(FEW)
YARDSTICK = "#444444"
MARKS = (("#1f6f8b", "o"), ("#d1762c", "s"), ("#7a5195", "D"), (YARDSTICK, "*"))  # of each line: colour, marker


def trade_off(results: Results) -> Figure | None:
    """Figures 3 and 4: the mean over the tasks, and each task."""
    recipes, tasks = EXPERIMENTS["sizes"]
    if not any(results.runs(task, recipe) for task in tasks for recipe in recipes):
        return None
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    grid = figure.subplots(2, (2 + len(tasks)) // 2, sharex=True)
    first, *others = grid.flat
    _changes(first, results, tasks)
    for task, axes in zip(tasks, others, strict=False):
        _scores(axes, results, task)
    for axes in others[len(tasks) :]:
        axes.set_axis_off()
    for axes in grid[-1]:
        axes.set_xlabel("trained parameters for one task")
    figure.legend(*others[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(LINES))
    return figure


def _changes(axes: Axes, results: Results, tasks: tuple[str, ...]) -> None:
    """The mean where every task is there; bars from the lowest task to the highest."""
    for (name, recipes), (colour, marker) in zip(LINES.items(), MARKS, strict=True):
        found = (results.point(recipe, tasks) for recipe in recipes)
        points = [point for point in found if point and len(point.changes) == len(tasks)]
        parameters, changes = [point.parameters for point in points], [point.change for point in points]
        below = [point.change - min(point.changes.values()) for point in points]
        above = [max(point.changes.values()) - point.change for point in points]
        axes.errorbar(
            parameters, changes, yerr=[below, above],
            color=colour, marker=marker, capsize=3, elinewidth=1, label=name,
        )  # fmt: skip
    axes.axhline(0, color=YARDSTICK, linewidth=0.8, linestyle="--")
    if not all(results.runs(task, FULL) for task in tasks):
        axes.text(0.5, 0.7, "needs full fine-tuning of every task", ha="center", transform=axes.transAxes)
    axes.set_title(f"mean of {len(tasks)} tasks")
    axes.set_xscale("log")
    axes.set_ylabel("test metric − full fine-tuning, points")


def _scores(axes: Axes, results: Results, task: str) -> None:
    """The metric itself; bars of one standard deviation between seeds."""
    for (name, recipes), (colour, marker) in zip(LINES.items(), MARKS, strict=True):
        found = [(results.runs(task, recipe), results.score(task, recipe)) for recipe in recipes]
        drawn = [(runs[0]["trained_parameters"], score) for runs, score in found if score]
        axes.errorbar(
            [parameters for parameters, _ in drawn],
            [score.mean for _, score in drawn],
            yerr=[score.deviation or 0 for _, score in drawn],
            color=colour, marker=marker, capsize=3, elinewidth=1, label=name,
        )  # fmt: skip
    if full := results.score(task, FULL):
        axes.axhline(full.mean, color=YARDSTICK, linewidth=0.8, linestyle="--")
    axes.set_title(task)
    axes.set_xscale("log")
    axes.set_ylabel(f"test {metric_name(task)} × 100")


def start_scale(results: Results) -> Figure | None:
    """Figure 6, right: how large the start values may be."""
    recipes, tasks = EXPERIMENTS["scales"]
    drawn = {
        task: found
        for task in tasks
        if (found := {recipe: score for recipe in recipes if (score := results.score(task, recipe, "validation"))})
    }
    if not drawn:
        return None
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    for (task, scores), (colour, marker) in zip(drawn.items(), MARKS, strict=False):
        axes.errorbar(
            [float(recipe.removeprefix(f"{FEW}scale-")) for recipe in scores],
            [score.mean for score in scores.values()],
            yerr=[score.deviation or 0 for score in scores.values()],
            color=colour, marker=marker, capsize=3, elinewidth=1, label=f"{task}, {metric_name(task)}",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("standard deviation of the start values")
    axes.set_ylabel("validation metric × 100")
    axes.legend()
    return figure


def ablation(results: Results) -> Figure | None:
    """Figure 6, left and centre: what is lost without the adapters of a span of layers."""
    if results.ablation is None:
        return None
    tasks: dict[str, Any] = results.ablation["tasks"]
    lowest = min(-1.0, *(100 * span["difference"] for found in tasks.values() for span in found["spans"]))
    figure = Figure(figsize=(3.6 * len(tasks) + 0.6, 3.9), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for (task, found), axes in zip(tasks.items(), panels, strict=True):
        image = _heat(axes, found["spans"], lowest)
        axes.set_title(f"{task}: {100 * found['all']:.1f} with all of them")
    panels[0].set_ylabel("first layer without adapters")
    figure.colorbar(image, ax=list(panels), shrink=0.8, label="change of the validation metric, points")
    return figure


def _heat(axes: Axes, spans: list[dict[str, Any]], lowest: float) -> Any:
    layers = 1 + max(span["last"] for span in spans)
    cells = [[float("nan")] * layers for _ in range(layers)]  # [first, last]
    for span in spans:
        cells[span["first"]][span["last"]] = 100 * span["difference"]
    image = axes.pcolormesh(range(layers), range(layers), cells, cmap="YlOrRd_r", vmin=lowest, vmax=0)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    for span in spans:
        value = 100 * span["difference"]
        colour = "white" if value < 0.55 * lowest else "black"
        place = (span["last"], span["first"])
        axes.annotate(f"{value:.1f}".replace("-", "−"), place, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(layers))
    axes.set_yticks(range(layers))
    axes.set_xlabel("last layer without adapters")
    axes.grid(visible=False)
    return image


PICTURES: dict[str, Callable[[Results], Figure | None]] = {
    "trade-off": trade_off,
    "start-scale": start_scale,
    "ablation": ablation,
}


def draw(results: Results, folder: Path) -> set[str]:
    """Writes the pictures that there is something for, and names them."""
    return drawing.draw({name: partial(picture, results) for name, picture in PICTURES.items()}, folder)
