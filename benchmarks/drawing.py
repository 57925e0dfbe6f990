"""Pictures for the pages: one style, and equal bytes for equal results."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "rootstock",  # element names, otherwise random
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
}


def draw(pictures: Mapping[str, Callable[[], Figure | None]], folder: Path) -> set[str]:
    """Writes the pictures that there is something for, and names them."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = set()
    with matplotlib.rc_context(STYLE):
        for name, picture in pictures.items():
            path = folder / f"{name}.svg"
            path.unlink(missing_ok=True)
            if (figure := picture()) is not None:
                figure.savefig(path, metadata={"Date": None, "Creator": None})
                drawn.add(name)
    return drawn
