"""The page of `benchmarks/engine.py`: docs/performance.md, from what it left behind for each kind of processor.

    python benchmarks/engine_page.py [--results FOLDER] [--docs FOLDER]

The same results give the same bytes.
"""

import argparse
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine_parts import PARTS
from engine_results import KINDS
from engine_turns import OURS, Turn

HERE = Path(__file__).parent
Results = Mapping[str, Any]
PICTURE = "![{}](performance/{}/{}.svg)"


def page(found: Mapping[str, Results]) -> str:
    """`found`: by kind of processor."""
    parts = ["<!-- Written by benchmarks/engine_page.py: change that, not this. -->", "# Performance", introduction()]
    for kind, results in found.items():
        parts += [f"## {KINDS[kind]}", *chapter(kind, results)]
    return "\n\n".join(map(_wrapped, parts)) + "\n"


def chapter(kind: str, results: Results) -> Iterator[str]:
    turns = turns_of(results)
    sections = {
        "What is asked of it": [
            "At the peak: the ratio, did our pass multiply as fast as products alone, and do nothing else but adapt.",
            ratios(results),
        ],
        "Many tasks": [PICTURE.format("Rows a second by number of tasks", kind, "by-tasks"), many_tasks(turns)],
        "By length": [PICTURE.format("Rows a second by length", kind, "by-length"), by_length(turns)],
        "One row alone": [alone(turns)],
        "Where the time goes": [shares(results)],
        "How near the vectors are": [agreement(results)],
        "What was run": what_was_run(results),
    }
    yield workload(results)
    for title, paragraphs in sections.items():
        yield from (f"### {title}", *paragraphs)


def turns_of(results: Results) -> dict[Turn, Any]:
    return {Turn(one["workload"], one["contestant"], one["way"]): one for one in results["turns"]}


def introduction() -> str:
    return (
        "The mixed-task engine beside its peers, in one run for each kind of processor: each of its rounds runs "
        "everybody in turn on the same batches of token ids, on the same cores, one at a time. Figures are medians "
        "over the rounds, with quartiles in brackets; a ratio is taken within each round. The command is "
        "`python benchmarks/engine.py`, whose docstring says what each side does."
    )


def workload(results: Results) -> str:
    real, scale = results["workloads"]["real"], results["scale"]
    return (
        f"{scale['rounds']} rounds. Texts are of the test sets of sst2 and banking77 in an order drawn once: "
        f"{real['rows']} rows in {real['batches']} batches, {real['tokens']} tokens, {real['tokens_when_padded']} when "
        "every batch is padded to its longest row. The median row has "
        f"{real['median_length']:g} tokens, the longest {real['longest']}."
    )


def ratios(results: Results) -> str:
    rows = []
    for one in results["ratios"]:
        least = one["asked"]
        met = "" if least is None else "yes" if one["median"] >= least else "**no**"
        asked = "" if least is None else f"{least:.2f}"
        rows.append((one["name"], _spread(one, 2), at_the_peak(results, one), asked, met))
    return _table(("ratio of speeds", "found", "at the peak", "asked", "met"), rows)


def at_the_peak(results: Results, ratio: Mapping[str, Any]) -> str:
    """The ratio, did our pass multiply as fast as products alone, and the adapters cost as much of it as they do."""
    of, _, to = ratio["name"].partition(" : ")
    ours = next((name for name in results["shares"] if of.startswith(name)), None)
    if ours is None or to == "bare" or to.endswith("alone"):
        return ""
    return f"{ratio['median'] / results['shares'][ours]['share_of_peak']['kernels']:.2f}"


def many_tasks(turns: Mapping[Turn, Any]) -> str:
    skipped = set(PARTS)
    rows = [
        (turn.contestant, turn.way, _spread(one["rows_per_second"], 0))
        for turn, one in turns.items()
        if turn.workload == "real" and turn.way not in skipped
    ]
    return _table(("", "tasks", "rows/s"), rows)


def by_length(turns: Mapping[Turn, Any]) -> str:
    lengths = list(dict.fromkeys(turn.workload for turn in turns if turn.workload.startswith("length")))
    sides = dict.fromkeys((turn.contestant, turn.way) for turn in turns if turn.workload in lengths)
    rows = [
        (*side, *(f"{turns[Turn(length, *side)]['rows_per_second']['median']:.0f}" for length in lengths))
        for side in sides
    ]
    return _table(("rows/s", "", *(length.removeprefix("length ") for length in lengths)), rows)


def alone(turns: Mapping[Turn, Any]) -> str:
    rows = [
        (turn.contestant, turn.way, f"{1e3 * one['p50']:.2f}", f"{1e3 * one['p95']:.2f}")
        for turn, one in turns.items()
        if turn.workload == "alone"
    ]
    return _table(("", "", "p50, ms", "p95, ms"), rows)


def shares(results: Results) -> str:
    found = [(ours, results["shares"][ours]) for ours in OURS if ours in results["shares"]]
    if not found:
        return ""
    rows: list[tuple[str, ...]] = [
        ("peak of our kernels, Gop/s", *(f"{one['peak_gops']['kernels']:.0f}" for _, one in found)),
        (
            "peak of torch, Gop/s",
            *(f"{one['peak_gops']['torch']:.0f}" if one["peak_gops"]["torch"] else "" for _, one in found),
        ),
        ("a pass, Gop/s of linear layers", *(f"{one['pass_gops']:.0f}" for _, one in found)),
        ("share of our kernels' peak", *(f"{one['share_of_peak']['kernels']:.0%}" for _, one in found)),
    ]
    for part in found[0][1]["where_the_time_goes"]:
        rows.append((part, *(f"{one['where_the_time_goes'][part]:.1%}" for _, one in found)))
    return _table(("", *(ours for ours, _ in found)), rows)


def agreement(results: Results) -> str:
    rows = [
        (name, f"{one['largest_difference']:.1e}", f"{one['lowest_cosine']:.4f}")
        for name, one in results["agreement"].items()
    ]
    return _table(("bare vectors beside transformers float32", "largest difference", "lowest cosine"), rows)


def what_was_run(results: Results) -> list[str]:
    machine = results["machine"]
    rows = [
        (name, ", ".join(f"{package} {version}" for package, version in one.get("versions", {}).items()))
        for name, one in results["contestants"].items()
    ]
    failed = {name: one["failed"] for name, one in results["contestants"].items() if "failed" in one}
    return [
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads each, "
        f"{machine['memory_gb']:g} GB; {machine['system']}.",
        _table(("", "versions"), rows),
        *(f"Not run: {name}: {why}" for name, why in {**failed, **results["failed"]}.items()),
    ]


def _spread(one: Mapping[str, float], digits: int) -> str:
    return f"{one['median']:.{digits}f} [{one['lower_quartile']:.{digits}f}, {one['upper_quartile']:.{digits}f}]"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _wrapped(paragraph: str) -> str:
    return paragraph if paragraph.startswith(("|", "!")) else textwrap.fill(paragraph, 120, break_long_words=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs")
    options = parser.parse_args()
    from engine_pictures import draw  # here, for matplotlib is only needed to draw

    files = {kind: options.results / f"engine-{kind}.json" for kind in KINDS}
    found = {kind: json.loads(file.read_text(encoding="utf-8")) for kind, file in files.items() if file.exists()}
    for kind, results in found.items():
        draw(turns_of(results), options.docs / "performance" / kind)
    (options.docs / "performance.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
