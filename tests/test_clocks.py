"""Time is measured by a clock that nobody can set; the wall clock gives timestamps and nothing else."""

import ast
from collections.abc import Iterator
from pathlib import Path

SERVICE = Path(__file__).parents[1] / "service"
# Where the wall clock is read, and for what. Another place needs a reason as good.
TIMESTAMPS = {
    ("api/keys.py", "datetime.now"): "the day a key was made",
    ("api/tracing.py", "time"): "when a span began and ended, as a collector wants it",
    ("api/trials.py", "datetime.now"): "since when a candidate is tried",
    ("client/retry.py", "datetime.now"): "an HTTP date of Retry-After is one of the wall clock's",
    ("registry/folder.py", "time.time_ns"): "a file's time, by which it is told from the one before",
    ("registry/following.py", "set_to_current_time"): "when the store was last read, as Prometheus compares it",
    ("registry/versions.py", "datetime.now"): "when a change was made, for the log",
    ("training/draft.py", "date.today"): "the day an adapter was trained",
}
FROM_TIME = {"time", "time_ns", "localtime", "gmtime", "ctime", "strftime"}
FROM_DATES = {"now", "utcnow", "today"}


def wall_clock_calls(tree: ast.Module) -> Iterator[str]:
    """Calls that read the wall clock, as they are written."""
    bare = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "time"
        for alias in node.names
        if alias.name in FROM_TIME
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in bare:
                yield name
            case ast.Call(func=ast.Attribute(value=ast.Name(id="time"), attr=attribute)) if attribute in FROM_TIME:
                yield f"time.{attribute}"
            case ast.Call(func=ast.Attribute(value=ast.Name(id=("date" | "datetime") as name), attr=attribute)) if (
                attribute in FROM_DATES
            ):
                yield f"{name}.{attribute}"
            case ast.Call(func=ast.Attribute(attr="set_to_current_time")):
                yield "set_to_current_time"


def test_the_wall_clock_is_read_for_timestamps_alone() -> None:
    found = {
        (str(path.relative_to(SERVICE)), call)
        for path in SERVICE.rglob("*.py")
        for call in wall_clock_calls(ast.parse(path.read_text()))
    }
    assert found == set(TIMESTAMPS)


def test_every_way_of_reading_it_is_seen() -> None:
    source = """
import time
from time import time as now, monotonic
from datetime import date, datetime
now(), time.time(), time.time_ns(), datetime.now(), datetime.utcnow(), date.today(), gauge.set_to_current_time()
monotonic(), time.monotonic(), time.perf_counter(), time.sleep(1), asyncio.get_running_loop().time()
"""
    assert sorted(wall_clock_calls(ast.parse(source))) == [
        "date.today",
        "datetime.now",
        "datetime.utcnow",
        "now",
        "set_to_current_time",
        "time.time",
        "time.time_ns",
    ]
