"""The experiment's page: docs/experiment.md and its pictures, from what the trainings and the checks left behind.

    python benchmarks/reproduce_page.py [--results FOLDER] [--docs FOLDER]

Reads `reproduce/*.json`, `reproduce_ablation.json` and `reproduce_forgetting.json` of `benchmarks/results`, as
`benchmarks/reproduce.py` and `benchmarks/reproduce_checks.py` write them. What is not there yet is left out, and the
page says so. The same results give the same bytes.
"""

import argparse
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import reproduce_tables as tables
from reproduce import BEHIND, FEW, WAYS, runs
from reproduce_results import Results
from reproduce_tables import TASKS, signed

HERE = Path(__file__).parent
FAR = 1.5  # points from full fine-tuning that ask for an explanation
EXPLANATIONS: dict[str, str] = {}  # task → why its adapters are that far behind; a sentence
NOTHING = "Not run yet."
Pictures = set[str]  # the names of those that were drawn


def page(results: Results, pictures: Pictures) -> str:
    sections = {
        "Adapters, full fine-tuning and the head alone": main_result(results),
        "How honest the scores are": calibration(results),
        "How few parameters are enough": sizes(results, pictures),
        "Other methods": methods(results),
        "How large the start values may be": start_scales(results, pictures),
        "Which layers the adapters matter in": ablation(results, pictures),
        "Nothing is forgotten": forgetting(results),
        "What was run": what_was_run(results),
        "Do it again": again(),
    }
    parts = ["<!-- Written by benchmarks/reproduce_page.py: change that, not this. -->", "# The experiment"]
    parts += map(_wrapped, introduction(results))
    for title, paragraphs in sections.items():
        parts += [f"## {title}", *([_wrapped(one) for one in paragraphs if one] or [NOTHING])]
    return "\n\n".join(parts) + "\n"


def introduction(results: Results) -> list[str]:
    base = next((run["trained_parameters"] / run["share_of_base"] for run in results.reports.values()), None)
    size = f", {base / 1e6:.1f} million parameters" if base else ""
    return [
        "Do small adapters in a frozen transformer answer as well as a transformer that was trained whole? [Houlsby "
        "et al. 2019](https://arxiv.org/abs/1902.00751) asked it with BERT. This page asks it again, with our "
        f"trainer and a much smaller base: all-MiniLM-L6-v2, six layers{size}. There are {len(TASKS)} public tasks; "
        "[their data](experiment-data.md) have a page of their own.",
        "Figures are points: 100 times the metric. They are of test rows that decided nothing, since the best epoch "
        "is chosen on validation. ± is the standard deviation between seeds, and a figure without it is of one seed; "
        "|w| is the size of the base. A difference is the distance from full fine-tuning with the same data, base and "
        "trainer.",
    ]


def main_result(results: Results) -> list[str]:
    table = tables.main_table(results)
    if not table:
        return []
    behind = [task for task in TASKS if (change := results.change(task, "houlsby")) is not None and change < -FAR]
    return [
        "The paper's tables 1 and 2. Adapters are as they ship: two bottlenecks of size 64 in every layer, trained "
        "with the LayerNorms and the head. The head alone reads what the frozen base gives.",
        table,
        f"On {_listed([f'`{task}`' for task in BEHIND])} adapters were more than two points behind on validation. "
        "There both were trained at a lower rate too, and of each training the rate that did better on validation "
        "counts.",
        "The paper's own adapters are 0.4 points behind on GLUE, with 3.6 % of the parameters trained for each task.",
        f"More than {FAR} points behind full fine-tuning:" if behind else "",
        "\n".join(_behind(results, task) for task in behind),
    ]


def _rows() -> str:
    return f"with {WAYS[FEW + 'houlsby'].rows:,} training rows"


def _behind(results: Results, task: str) -> str:
    difference = results.difference(task, "houlsby")
    assert difference is not None
    points, error, seeds = difference
    if seeds:
        sure = f"with a standard error of {error:.1f} from the spread of {seeds[0]} and {seeds[1]} seeds"
    else:
        rows = results.runs(task, "houlsby")[0]["measured"]["test"]["rows"]
        low, high = signed(points - 1.96 * error), signed(points + 1.96 * error)
        sure = f"with 95 % confidence {low} to {high} from the intervals of one seed each on {rows:,} test rows"
    verdict = "less" if abs(points) < 2 * error else "more"
    validation = f"On validation the distance is {signed(results.change(task, 'houlsby', 'validation') or 0.0)}."
    explanation = EXPLANATIONS.get(task, "")
    return (
        f"- `{task}`: {signed(points)}, {sure}: {verdict} than two standard errors. {validation} {explanation}".rstrip()
    )


def calibration(results: Results) -> list[str]:
    table = tables.calibration(results)
    said = (
        "The expected calibration error on test, in points: how far the score of an answer is from how often such "
        "answers are right, over 15 bins. Every adapter file has a temperature, fitted on validation."
    )
    return [said, table] if table else []


def sizes(results: Results, pictures: Pictures) -> list[str]:
    if "trade-off" not in pictures:
        return []
    return [
        f"The paper's figures 3 and 4, {_rows()}: what is lost against full fine-tuning, by how many parameters are "
        "trained. "
        "Bars go from the lowest task to the highest in the mean; for one task, one standard deviation between seeds "
        "up and down.",
        "![Test metric by trained parameters](experiment/trade-off.svg)",
        tables.sizes(results),
        "`size-m` has bottlenecks of size m in every layer, and `houlsby` of size 64. `top-k` has those of size 64 "
        "in the top k layers alone. `norms` trains the LayerNorms alone. The head is always trained.",
    ]


def methods(results: Results) -> list[str]:
    table = tables.methods(results)
    said = f"What later papers put into the layers instead, {_rows()}, on the tasks of the section above."
    return [said, table] if table else []


def start_scales(results: Results, pictures: Pictures) -> list[str]:
    if "start-scale" not in pictures:
        return []
    return [
        f"The paper's figure 6, right, {_rows()}: the metric on validation by the standard deviation that the "
        "adapters' matrices start with; ours start with 1e-3.",
        "![Validation metric by the standard deviation of the start values](experiment/start-scale.svg)",
        tables.start_scales(results),
    ]


def ablation(results: Results, pictures: Pictures) -> list[str]:
    if results.ablation is None or "ablation" not in pictures:
        return []
    told = []
    for task, found in results.ablation["tasks"].items():
        changes = {(span["first"], span["last"]): 100 * span["difference"] for span in found["spans"]}
        alone = {first: change for (first, last), change in changes.items() if first == last}
        mildest, worst = max(alone, key=alone.__getitem__), min(alone, key=alone.__getitem__)
        told.append(
            f"- `{task}`, {100 * found['all']:.1f} with all: {signed(alone[mildest])} (layer {mildest}) to "
            f"{signed(alone[worst])} (layer {worst}) without those of one layer, {signed(changes[0, max(alone)])} "
            "without any"
        )
    return [
        "The paper's figure 6, left and centre: trained adapters are taken out of a span of layers, whose LayerNorms "
        "become the base's again; nothing is retrained. The metric is on validation, the mean over seeds; layers count "
        "from 0.",
        "![Change of the validation metric without the adapters of a span of layers](experiment/ablation.svg)",
        "\n".join(told),
    ]


def forgetting(results: Results) -> list[str]:
    found = results.forgetting
    if found is None:
        return []
    answers, different = sum(found["inputs"].values()), sum(found["different"].values())
    return [
        f"A service with {len(found['tasks'])} tasks ({_listed(found['tasks'])}) gave {answers} answers. Then it got "
        f"{len(found['later'])} more tasks over HTTP, each was asked, and the first ones were asked the same again. "
        f"Compared byte by byte, {different or 'none'} of the {answers} answers changed."
    ]


def what_was_run(results: Results) -> list[str]:
    if not results.reports:
        return []
    hours = sum(report["seconds"] for report in results.reports.values()) / 3600
    seeds: dict[int, list[str]] = defaultdict(list)
    for task in TASKS:
        seeds[len(results.runs(task, "houlsby"))].append(task)
    repeated = [
        f"The first table has {count} seeds of {_listed(tasks)}." for count, tasks in sorted(seeds.items()) if count > 1
    ]
    planned = list(runs())
    absent = [run for run in planned if (run.dataset.task, run.recipe, run.seed) not in results.reports]
    missing: dict[str, list[str]] = defaultdict(list)
    for run in absent:
        missing[run.recipe].append(f"{run.dataset.task} {run.seed}")
    return [
        f"{len(results.reports)} trainings of one thread each, {hours:,.0f} hours together; one that was cut counts "
        f"from where it went on. {' '.join(repeated)} {_machine(results)}",
        tables.settings(results),
        "One recipe a method serves all tasks: what `rootstock train` does by default, but for the adapters' epochs. "
        "`service/training/recipe.py` says how it was found. All use AdamW, with a rate that rises at first and then "
        "falls to zero, both linearly.",
        confounds(),
        f"Still missing are {len(absent)} of {len(planned)} trainings, here by task and seed:" if absent else "",
        "\n".join(f"- `{recipe}`: {', '.join(names)}" for recipe, names in missing.items()),
    ]


def confounds() -> str:
    """What differs between the adapters and the yardstick beside the weights that are trained, by their recipes."""
    ours, full = asdict(WAYS["houlsby"].recipe), asdict(WAYS["full"].recipe)
    apart = [
        f"{name.replace('_', ' ')} ({_setting(ours[name])} against {_setting(full[name])})"
        for name in ours
        if ours[name] != full[name] and name != "full"
    ]
    return (
        f"The adapters' recipe differs from full fine-tuning's in {_listed(apart or ['nothing'])}; a part of their "
        "difference may come from there."
    )


def _setting(value: object) -> str:
    return "none" if value in (None, False) else f"{value:g}" if isinstance(value, float) else str(value)


def _machine(results: Results) -> str:
    machine = next((check["machine"] for check in (results.forgetting, results.ablation) if check), None)
    if machine is None:
        return ""
    return (
        f"The machine: {machine['processor']}, {machine['cores']} cores, {machine['system']}, Python "
        f"{machine['python']}, torch {machine['torch']}."
    )


def again() -> list[str]:
    return [
        "`make reproduce DATA=folder` runs it all, with the data laid out as [their page](experiment-data.md) says. "
        "It can be cut at any time: the same command goes on from the last finished epoch, and what has a report "
        "with the same arguments, recipe and data is not trained again. The reports are in "
        "`benchmarks/results/reproduce/`, and `benchmarks/reproduce_page.py` makes this page from them."
    ]


def _wrapped(paragraph: str) -> str:
    """Prose in lines of 120 characters; tables, lists and pictures as they are."""
    if paragraph.startswith(("|", "- ", "!")):
        return paragraph
    return textwrap.fill(" ".join(paragraph.split()), 120, break_long_words=False, break_on_hyphens=False)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs")
    options = parser.parse_args()
    from reproduce_pictures import PICTURES, draw  # here, for matplotlib is only needed to draw

    results = Results.read(options.results)
    pictures = draw(results, options.docs / "experiment")
    (options.docs / "experiment.md").write_text(page(results, pictures), encoding="utf-8")
    for name in PICTURES:
        if name not in pictures:
            print(f"{name}: nothing to draw yet")
    print(f"wrote {options.docs / 'experiment.md'} from {len(results.reports)} trainings")


if __name__ == "__main__":
    main()
