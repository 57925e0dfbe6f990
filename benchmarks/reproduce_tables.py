"""The tables of the experiment's page, as Markdown; "" where nothing of a table is there yet."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import mean

from data_sets import DATASETS
from reproduce import EXPERIMENTS, FEW, LINES, WAYS
from reproduce_results import Results, Score, metric_name

TASKS = tuple(dataset.task for dataset in DATASETS)
MAIN = ("full", "houlsby", "head")
METHODS = tuple(FEW + name for name in ("full", "houlsby", "pfeiffer", "parallel", "lora", "prefix", "norms"))
OPTIONS = ("bottleneck", "rank", "length")  # of a method, that tell its size
SETTINGS = (
    "epochs",
    "learning_rate",
    "batch_size",
    "dropout",
    "averaging",
    "beta2",
)  # of the trainer, where a report has them
OF_BASE = "trained, of \\|w\\|"


def signed(points: float) -> str:
    return f"{round(points, 1) + 0.0:+.1f}".replace("-", "−").replace("+0.0", "0.0")


def shown(score: Score | None) -> str:
    if score is None:
        return "—"
    return f"{score.mean:.1f}" + ("" if score.deviation is None else f" ± {score.deviation:.1f}")


def percent(share: float | None) -> str:
    if share is None:
        return "—"
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def main_table(results: Results) -> str:
    """The paper's tables 1 and 2: one row a task, with empty places for what is not there yet."""
    if not any(results.runs(task, recipe) for task in TASKS for recipe in MAIN):
        return ""
    rows = []
    for task in TASKS:
        full, adapters, head = (shown(results.score(task, recipe)) for recipe in MAIN)
        count = next((f"{run['rows']:,}" for recipe in MAIN for run in results.runs(task, recipe)), "—")
        share = percent(results.share(task, "houlsby"))
        rows.append([f"`{task}`", metric_name(task), count, full, adapters, _change(results, task), head, share])
    header = ["task", "metric", "training rows", "full fine-tuning", "adapters", "difference", "head alone", OF_BASE]
    return _table(header, [*rows, *_totals(results)], left=2)


def _totals(results: Results) -> list[list[str]]:
    """Means and sums over the tasks that have both adapters and full fine-tuning."""
    tasks = [task for task in TASKS if results.change(task, "houlsby") is not None]
    if not tasks:
        return []
    full, adapters, head = (_mean(results, recipe, tasks) for recipe in MAIN)
    shares = {recipe: _shares(results, recipe, tasks) for recipe in MAIN}
    means = {recipe: percent(mean(found) if found else None) for recipe, found in shares.items()}
    sums = {recipe: f"{1 + sum(found):.2f}·\\|w\\|" if found else "—" for recipe, found in shares.items()}
    change = signed(mean(results.change(task, "houlsby") or 0.0 for task in tasks))
    return [
        [f"mean of {len(tasks)}", "", "", full, f"**{adapters}**", f"**{change}**", head, ""],
        ["trained for each task", "", "", means["full"], means["houlsby"], "", means["head"], ""],
        [f"parameters of all {len(tasks)}", "", "", f"{len(tasks)}·\\|w\\|", sums["houlsby"], "", sums["head"], ""],
    ]


def calibration(results: Results) -> str:
    """Expected calibration error by task."""
    rows = []
    for task in TASKS:
        adapters, full = (results.calibration_error(task, recipe) for recipe in ("houlsby", "full"))
        if adapters is not None:
            rows.append([f"`{task}`", shown(adapters), shown(full)])
    return _table(["task", "adapters", "full fine-tuning"], rows, left=1)


def sizes(results: Results) -> str:
    """Every point of the trade-off's picture."""
    tasks = EXPERIMENTS["sizes"][1]
    recipes = dict.fromkeys(recipe for recipes in LINES.values() for recipe in recipes)
    points = [point for recipe in recipes if (point := results.point(recipe, tasks))]
    rows = [
        [
            f"`{point.recipe.removeprefix(FEW)}`",
            f"{point.parameters:,.0f}",
            signed(point.change) if len(point.changes) == len(tasks) else "—",
            *(_change(results, task, point.recipe) for task in tasks),
        ]
        for point in points
    ]
    return _table(["trained", "parameters", "mean", *(f"`{task}`" for task in tasks)], rows, left=1)


def methods(results: Results) -> str:
    """The other ways of tuning, each on every task of their experiment."""
    tasks = EXPERIMENTS["methods"][1]
    rows = []
    for recipe in METHODS:
        scores = [results.score(task, recipe) for task in tasks]
        if any(scores):
            point, shares = results.point(recipe, tasks), _shares(results, recipe, tasks)
            change = signed(point.change) if point and len(point.changes) == len(tasks) else "—"
            share = percent(mean(shares) if shares else None)
            rows.append([_named(results, recipe), *map(shown, scores), _mean(results, recipe, tasks), change, share])
    return _table(["method", *(f"`{task}`" for task in tasks), "mean", "difference", OF_BASE], rows, left=1)


def start_scales(results: Results) -> str:
    recipes, tasks = EXPERIMENTS["scales"]
    scores = {task: [results.score(task, recipe, "validation") for recipe in recipes] for task in tasks}
    rows = [[f"`{task}`", *map(shown, found)] for task, found in scores.items() if any(found)]
    return _table(["task", *(recipe.removeprefix(f"{FEW}scale-") for recipe in recipes)], rows, left=1)


def settings(results: Results) -> str:
    """Which recipes share which settings of the trainer."""
    used = {key: report["recipe"] for key, report in results.reports.items()}
    names = [name for name in SETTINGS if any(recipe.get(name) is not None for recipe in used.values())]
    groups: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for (_, recipe, _), values in used.items():
        groups[tuple(_number(values.get(name)) for name in names)].add(recipe.removeprefix(FEW))
    rows = sorted((_ordered(recipes), values) for values, recipes in groups.items())
    named = [[", ".join(f"`{recipe}`" for _, recipe in recipes), *values] for recipes, values in rows]
    return _table(["recipe", *(name.replace("_", " ") for name in names)], named, left=1)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Columns from `left` on hold numbers."""
    rule = "|" + "|".join("---" if column < left else "---:" for column in range(len(header))) + "|"
    lines = [f"| {' | '.join(row)} |" for row in (header, *rows)]
    return "\n".join([lines[0], rule, *lines[1:]]) if rows else ""


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:g}"


def _change(results: Results, task: str, recipe: str = "houlsby") -> str:
    change = results.change(task, recipe)
    return "—" if change is None else signed(change)


def _mean(results: Results, recipe: str, tasks: Sequence[str]) -> str:
    scores = [score.mean for task in tasks if (score := results.score(task, recipe))]
    return f"{mean(scores):.1f}" if len(scores) == len(tasks) else "—"


def _shares(results: Results, recipe: str, tasks: Sequence[str]) -> list[float]:
    """Of every task, or else none."""
    found = [share for task in tasks if (share := results.share(task, recipe)) is not None]
    return found if len(found) == len(tasks) else []


def _named(results: Results, recipe: str) -> str:
    """With the option that tells its size."""
    method = next(report["method"] for (_, name, _), report in results.reports.items() if name == recipe)
    options = method if isinstance(method, dict) else {}
    return f"`{recipe.removeprefix(FEW)}`" + "".join(f", {name} {options[name]}" for name in OPTIONS if name in options)


def _ordered(recipes: Iterable[str]) -> list[tuple[int, str]]:
    known = [way.removeprefix(FEW) for way in WAYS]
    return sorted((known.index(recipe) if recipe in known else len(known), recipe) for recipe in recipes)
