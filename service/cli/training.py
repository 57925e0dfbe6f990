"""train and evaluate: an adapter from labelled data, and how good it is."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from pydantic import ValidationError

from service.adapters.manifest import KindName
from service.cli.program import url_option
from service.client import Client
from service.errors import BadData

if TYPE_CHECKING:
    from service.tasks import Answer, Given
    from service.training.measure import Measured
    from service.training.trainer import Progress

KINDS = [kind for kind in get_args(KindName) if kind != "embedding"]
TARGETS = ("query", "key", "value", "attention_out", "ffn_in", "ffn_out")
METHODS = ("houlsby", "pfeiffer", "parallel", "lora", "prefix", "head", "full")
# Fields of the methods, and the options that set them.
METHOD_OPTIONS = {
    "bottleneck": "--bottleneck",
    "activation": "--activation",
    "init_scale": "--init-scale",
    "rank": "--rank",
    "alpha": "--alpha",
    "targets": "--target",
    "length": "--length",
    "layers": "--layer",
    "norms": "--norms",
}
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_columns = [
    click.option("--text", help="Column of the text. Default: guessed."),
    click.option("--pair", help="Column of the second text. Default: guessed."),
    click.option("--label", help="Column of the label. Default: guessed."),
    click.option("--metric", help="What is measured, where the kind knows several. Default: the kind's first."),
    click.option("--base-model", envvar="ROOTSTOCK_BASE_MODEL", help="Folder or name. Default: as `serve`."),
    click.option("--threads", type=click.IntRange(1), help="Default: one per core."),
]


def _with_columns(command: Any) -> Any:
    for option in reversed(_columns):
        command = option(command)
    return command


@click.command()
@click.argument("training", type=FILE)
@click.option("--task", required=True, help="Name of the task: small letters, digits, '.', '_' and '-'.")
@click.option("--kind", type=click.Choice(KINDS), help="Default: seen from the labels, and said.")
@click.option(
    "--validation", type=FILE, help="Chooses the best epoch. Without it a tenth of TRAINING is set aside, by label."
)
@click.option("--test", type=FILE, help="Measured once, at the end, and noted in the file.")
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="houlsby",
    show_default=True,
    help="full trains the base itself: a yardstick that is measured and never served.",
)
@click.option("--bottleneck", type=click.IntRange(1, 4096), help="Adapter size (houlsby, pfeiffer, parallel).")
@click.option("--activation", type=click.Choice(["gelu", "relu", "swish", "tanh"]), help="Of the bottleneck.")
@click.option("--init-scale", type=click.FloatRange(0, 10), help="Deviation of the start values.")
@click.option("--rank", type=click.IntRange(1, 1024), help="Rank (lora).")
@click.option("--alpha", type=click.FloatRange(0, 1e4, min_open=True), help="Scale times rank (lora).")
@click.option("--target", "targets", type=click.Choice(TARGETS), multiple=True, help="Adapted linear layer (lora).")
@click.option("--length", type=click.IntRange(1, 512), help="Prefix length (prefix).")
@click.option("--layer", "layers", type=click.IntRange(0), multiple=True, help="Adapted layer. Default: all.")
@click.option("--norms/--no-norms", default=None, help="Train the adapted layers' LayerNorms. Default: by method.")
@click.option("--epochs", type=click.IntRange(1), help="Default: by method.")
@click.option("--patience", type=click.IntRange(1), help="Stop after this many epochs without a better figure.")
@click.option(
    "--learning-rate",
    "learning_rates",
    type=click.FloatRange(0, min_open=True),
    multiple=True,
    help="Default: by method. Several are tried in turn; the best on validation is kept.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Default: 32.")
@click.option("--seed", "seeds", type=int, multiple=True, default=(0,), show_default=True, help="Several: as above.")
@click.option(
    "--max-length", type=click.IntRange(8), help="Tokens read at once. Default: 128; 256 where passages are read."
)
@click.option("--pooling", type=click.Choice(["mean", "first"]), default="mean", show_default=True)
@click.option(
    "--golden",
    type=FILE,
    help="JSONL of inputs ({text, text_pair}) kept in the file with their answers as a check. "
    "Default: the first validation rows.",
)
@click.option("--source", default="", help="Where the data come from; kept in the file.")
@click.option("--description", default="", help="What the task answers; kept in the file.")
@click.option("--licence", default="", help="Kept in the file.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="bfloat16",
    show_default=True,
    help="Precision of the frozen maths; what is trained stays float32.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("."),
    show_default=True,
    help="Folder for <task>-1.safetensors and <task>-report.html.",
)
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path), help="Also write what was measured, as JSON."
)
@click.option("--resume", is_flag=True, help="Go on with this training where it was cut.")
@_with_columns
def train(training: Path, **options: Any) -> None:
    """Train an adapter on TRAINING: .csv, .tsv, .jsonl, .conll or SQuAD's .json."""
    import torch

    from service.engine.base_model import DEFAULT_BASE, load_base
    from service.training.report import render
    from service.training.run import read_data, run

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    plan = _plan(training, options)
    for folder in (options["out"], options["report"] and options["report"].parent):
        if folder:  # made now: a folder that cannot be is no news for after the training
            folder.mkdir(parents=True, exist_ok=True)
    data = read_data(plan)
    click.echo(
        f"{data.kind}: {len(data.training):,} rows to train on, {len(data.validation):,} to validate on", err=True
    )
    base = load_base(options["base_model"] or DEFAULT_BASE)
    bar = _Bar(plan.task, plan.recipe.batch_size)
    try:
        outcome = run(base, plan, data, bar.show)
    finally:
        bar.close()
    report = outcome.report
    click.echo(f"validation (epoch {report['best_epoch']}): {_figures(outcome.validation)}")
    if outcome.test is not None:
        click.echo(f"test: {_figures(outcome.test)}")
    click.echo(f"trained {report['trained_parameters']:,} parameters, {report['share_of_base']:.2%} of the base")
    page = options["out"] / f"{plan.task}-report.html"
    page.write_text(render(report), encoding="utf-8")
    click.echo(f"wrote {page}")
    if outcome.file is not None:
        path = options["out"] / f"{plan.task}-1.safetensors"
        path.write_bytes(outcome.file)
        click.echo(f"wrote {path} ({len(outcome.file) / 1e6:.2f} MB); serve it with: rootstock push {path}")
    if options["report"]:
        options["report"].write_text(json.dumps(report, indent=2) + "\n")


def _plan(training: Path, options: dict[str, Any]) -> Any:
    import torch

    from service.training.data import Columns
    from service.training.recipe import RECIPES
    from service.training.run import Plan

    given = {name: options[name] for name in ("epochs", "batch_size", "patience") if options[name] is not None}
    way = "norms" if options["method"] == "head" and options["norms"] else options["method"]
    recipe = replace(RECIPES[way], seed=options["seeds"][0], dtype=getattr(torch, options["dtype"]), **given)
    taken = (
        "task", "kind", "validation", "test", "metric", "seeds", "learning_rates", "max_length", "pooling", "source",
        "description", "licence", "resume",
    )  # fmt: skip
    return Plan(
        method=_method(options),
        recipe=recipe,
        training=training,
        columns=Columns(options["text"], options["pair"], options["label"]),
        golden=_golden(options["golden"]) if options["golden"] else (),
        checkpoints=options["out"],
        **{name: options[name] for name in taken},
    )


def _method(options: dict[str, Any]) -> Any:
    """The method with what was said of it; an option that it does not have is an error."""
    from service.adapters.methods import METHODS

    name = "head" if options["method"] == "full" else options["method"]
    said = {option: options[option] for option in METHOD_OPTIONS if options[option] not in (None, ())}
    fields = METHODS[name].model_fields.items() if options["method"] != "full" else ()
    known = {field for field, facts in fields if facts.annotation is not type(None)}
    unknown = [METHOD_OPTIONS[option] for option in said if option not in known]
    if unknown:
        raise click.UsageError(f"method {options['method']} has no {', '.join(unknown)}")
    return METHODS[name](**said)


def _golden(path: Path) -> list[Any]:
    from service.adapters.manifest import Input

    inputs = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            inputs.append(Input.model_validate_json(line))
        except ValidationError as error:
            raise BadData(f"{path}:{number}: {error.errors()[0]['msg']}") from error
    return inputs


@click.command()
@click.argument("adapter")
@click.argument("data", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="All figures as JSON.")
@_with_columns
@url_option
def evaluate(adapter: str, data: Path, as_json: bool, **options: Any) -> None:
    """Measure ADAPTER on labelled DATA: an adapter file here, or the name of a task of a running service."""
    from service.training.data import Columns
    from service.training.evaluate import evaluate as measure

    columns = Columns(options["text"], options["pair"], options["label"])
    if Path(adapter).is_file():
        manifest, ask = _local(Path(adapter), options)
        measured = measure(manifest, data, ask, columns, options["metric"])
    elif Path(adapter).suffix == ".safetensors":
        raise click.UsageError(f"there is no file {adapter}")
    else:
        with Client(options["url"]) as client:
            manifest, ask = served(client, adapter)
            measured = measure(manifest, data, ask, columns, options["metric"])
    if as_json:
        click.echo(json.dumps(measured.facts(), indent=2))
        return
    click.echo(_figures(measured))
    width = max(map(len, measured.by_label), default=0)
    for label, counts in measured.by_label.items():
        rows = int(counts.hits + counts.missed)
        click.echo(
            f"  {label:<{width}}  {rows:>6,} rows  precision {counts.precision:.3f}  recall {counts.recall:.3f}  "
            f"F1 {counts.f1:.3f}"
        )


def _local(path: Path, options: dict[str, Any]) -> tuple[Any, Any]:
    import torch

    from service.engine.bank import load_resident
    from service.engine.base_model import DEFAULT_BASE, load_base
    from service.training.evaluate import asking

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    base = load_base(options["base_model"] or DEFAULT_BASE)
    resident = load_resident(base, path.read_bytes(), version=1)
    return resident.manifest, asking(base, resident)


def served(client: Client, task: str) -> tuple[Any, Any]:
    """The served version's own manifest, and the service as what answers: that version, whatever is activated."""
    from service.adapters.file import read_header

    version = client.task(task)["version"]
    manifest = read_header(client.file(task, version)).manifest
    names = ("question", "context") if manifest.kind == "answer" else ("text", "text_pair")

    def ask(inputs: "Sequence[Given]") -> "list[Answer]":
        sent: list[str | Mapping[str, str]] = [
            given.text if given.text_pair is None else dict(zip(names, (given.text, given.text_pair), strict=True))
            for given in inputs
        ]
        return client.predict(task, sent, version=version)

    return manifest, ask


def _figures(measured: "Measured") -> str:
    low, high = measured.interval
    others = "".join(f", {name} {value:.4f}" for name, value in measured.others.items())
    error = measured.calibration_error
    honest = f", calibration error {error:.4f}" if error is not None else ""
    return f"{measured.metric} {measured.value:.4f} ({low:.4f} to {high:.4f}) on {measured.rows:,} rows{others}{honest}"


class _Bar:
    """A live line: examples done and a second, loss, the last epoch's metric, time left. Drawn on terminals only."""

    def __init__(self, task: str, batch_size: int) -> None:
        from tqdm import tqdm

        self._task, self._batch_size = task, batch_size
        self._bar = tqdm(desc=task, unit="examples", unit_scale=True, disable=None, file=sys.stderr)
        self._value = ""

    def show(self, run: int, runs: int, progress: "Progress") -> None:
        which = f"run {run} of {runs}, " if runs > 1 else ""
        if progress.value is not None:
            self._value = f", validation {progress.value:.4f}"
            if self._bar.disable:
                click.echo(f"{which}epoch {progress.epoch}: loss {progress.loss:.4f}{self._value}", err=True)
            return
        done = ((run - 1) * progress.steps + progress.step) * self._batch_size
        self._bar.total = runs * progress.steps * self._batch_size
        self._bar.set_postfix_str(
            f"{which}epoch {progress.epoch}, loss {progress.loss:.3f}{self._value}", refresh=False
        )
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._bar.close()


COMMANDS = (train, evaluate)
