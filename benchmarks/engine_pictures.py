"""The pictures of docs/performance.md: rows a second against the number of tasks, and against length."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

import drawing
from engine_turns import OURS, Turn

Turns = Mapping[Turn, Any]
# Colour by precision; the engine in full lines, peers with adapters dashed, peers without dotted.
COLOURS = {"float32": "#1f6f8b", "bfloat16": "#d1762c", "int8": "#7a5195", "int16": "#4f8f4f"}
PEERS = ("adapters float32", "peft float32")
BARE = ("ONNX Runtime float32", "OpenVINO bfloat16", "ONNX Runtime int8")


def by_tasks(turns: Turns) -> Figure | None:
    """Each task once in a batch of 64, beyond that any of them alike; past a thousand, by Zipf's law from the store."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    for name in (*OURS, *PEERS):
        found = sorted(
            (int(turn.way.split()[1]), one["rows_per_second"]["median"])
            for turn, one in turns.items()
            if turn.workload == "real"
            and turn.contestant == name
            and turn.way.split()[0] in ("houlsby", "mixed", "store")
        )
        if found:
            _line(axes, name, *zip(*found, strict=True))
    for name in BARE:
        one = turns.get(Turn("real", name, "bare"))
        if one is not None:
            rows = one["rows_per_second"]["median"]
            axes.axhline(rows, color=_colour(name), linestyle=":", linewidth=1, label=f"{name}, without adapters")
    axes.set_xscale("log")
    axes.set_xlabel("tasks")
    return _finished(figure, axes)


def by_length(turns: Turns) -> Figure | None:
    """The bare base; ours with 64 tasks."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    for name in (*OURS, *BARE):
        found = sorted(
            (int(turn.workload.split()[1]), one["rows_per_second"]["median"])
            for turn, one in turns.items()
            if turn.workload.startswith("length") and turn.contestant == name and (turn.way == "bare") == (name in BARE)
        )
        if found:
            _line(axes, f"{name}, {'64 tasks' if name in OURS else 'without adapters'}", *zip(*found, strict=True))
    axes.set_xscale("log", base=2)
    axes.set_xlabel("tokens a row")
    return _finished(figure, axes)


def draw(turns: Turns, folder: Path) -> set[str]:
    """Writes the pictures that there is something for, and names them."""
    return drawing.draw({"by-tasks": partial(by_tasks, turns), "by-length": partial(by_length, turns)}, folder)


def _line(axes: Axes, name: str, x: Sequence[float], y: Sequence[float]) -> None:
    ours = name.startswith("rootstock")
    marker = "o" if ours else "D" if name.startswith("peft") else "s"
    axes.plot(x, y, color=_colour(name), marker=marker, linestyle="-" if ours else "--", label=name)


def _colour(name: str) -> str:
    return next(colour for precision, colour in COLOURS.items() if precision in name)


def _finished(figure: Figure, axes: Axes) -> Figure | None:
    if not axes.lines:
        return None
    axes.set_yscale("log")
    axes.set_ylabel("rows a second")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.0f}")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
