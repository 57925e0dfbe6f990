"""train and evaluate: an adapter from labelled data, and how good it is."""

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import click

from service.adapters.manifest import KindName
from service.cli.outcome import figures, write
from service.cli.plan import Finite, make_plan, way
from service.cli.program import naming, url_option
from service.cli.progress import Bar
from service.client import Client
from service.errors import UnknownTask

if TYPE_CHECKING:
    from service.adapters.manifest import Manifest
    from service.tasks import Answer, Given
    from service.training.evaluate import Asked
    from service.training.plan import Data, Plan

KINDS = [kind for kind in get_args(KindName) if kind != "embedding"]
TARGETS = ("query", "key", "value", "attention_out", "ffn_in", "ffn_out")
METHODS = ("houlsby", "pfeiffer", "parallel", "lora", "prefix", "head", "full")
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_columns = [
    click.option("--text", help="Column of the text. Default: guessed."),
    click.option("--pair", help='Column of the second text; "" if there is none. Default: guessed.'),
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
    "--validation",
    type=FILE,
    help="Chooses the best epoch. Without it about a tenth of TRAINING is set aside, by label; "
    "equal inputs, and questions on one passage, stay together.",
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
@click.option("--init-scale", type=Finite(0, 10), help="Deviation of the start values.")
@click.option("--rank", type=click.IntRange(1, 1024), help="Rank (lora).")
@click.option("--alpha", type=Finite(0, 1e4, min_open=True), help="Scale times rank (lora).")
@click.option("--target", "targets", type=click.Choice(TARGETS), multiple=True, help="Adapted linear layer (lora).")
@click.option("--length", type=click.IntRange(1, 512), help="Prefix length (prefix).")
@click.option("--layer", "layers", type=click.IntRange(0), multiple=True, help="Adapted layer. Default: all.")
@click.option("--norms/--no-norms", default=None, help="Train the adapted layers' LayerNorms. Default: by method.")
@click.option("--epochs", type=click.IntRange(1), help="Default: by method.")
@click.option("--patience", type=click.IntRange(1), help="Stop after this many epochs without a better figure.")
@click.option(
    "--learning-rate",
    "learning_rates",
    type=Finite(0, min_open=True),
    multiple=True,
    help="Default: by method. Several are tried in turn; the best on validation is kept.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Default: 32.")
@click.option(
    "--seed", "seeds", type=click.IntRange(0, 2**63 - 1), multiple=True, default=(0,), show_default=True,
    help="Several: as above.",
)  # fmt: skip
@click.option(
    "--max-length", type=click.IntRange(8), help="Tokens read at once. Default: 128; 256 where passages are read."
)
@click.option("--pooling", type=click.Choice(["mean", "first"]), default="mean", show_default=True)
@click.option(
    "--golden",
    type=FILE,
    help="JSONL of inputs ({text, text_pair}) kept in the file with their answers as a check. "
    "At most 64. Default: the first validation rows.",
)
@click.option("--source", default="", help="Where the data come from; kept in the file.")
@click.option("--description", default="", help="What the task answers; kept in the file.")
@click.option("--licence", default="", help="Kept in the file.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "int16"]),
    default="auto",
    show_default=True,
    help="Precision of the frozen maths; what is trained stays float32. auto: bfloat16 where the processor has "
    "AMX, else int16 where it has AVX-512 VNNI, or AVX2 without AVX-512, else float32. full takes no int16; "
    "head without --norms is in float32.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("."),
    show_default=True,
    help="Folder for <task>-1.safetensors and <task>-report.html (of full: <task>-full-report.html).",
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
    from service.training.plan import count_cut_rows, read_data
    from service.training.precision import training_dtype
    from service.training.run import run

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    plan = make_plan(training, options)
    for folder in (options["out"], options["report"] and options["report"].parent):
        if folder:  # made now: a folder that cannot be is no news for after the training
            folder.mkdir(parents=True, exist_ok=True)
    bar: Bar | None = None
    try:
        data = read_data(plan)
        _say_data(data)
        base = load_base(options["base_model"] or DEFAULT_BASE)
        if way(options) != "head":  # whose features are made in float32
            dtype = training_dtype(options["dtype"], base.weights, plan.recipe.full)
            plan = replace(plan, recipe=replace(plan.recipe, dtype=dtype))
        _say_way(plan, options, count_cut_rows(base, plan, data), len(data.training))
        bar = Bar(plan.task, len(data.training), plan.recipe.epochs, plan.resume)
        outcome = run(base, plan, data, bar.show)
    except KeyboardInterrupt:
        _end_cut(bar)
    finally:
        if bar is not None:
            bar.close()
    write(plan, outcome, options["out"], options["report"])


def _say_data(data: "Data") -> None:
    """What was read, and what is doubtful about it."""
    rows = f"{len(data.training):,} rows to train on, {len(data.validation):,} to validate on"
    for line in (f"{data.kind}: {rows}", *data.doubts):
        click.echo(line, err=True)


def _say_way(plan: "Plan", options: dict[str, Any], cut: int, rows: int) -> None:
    """What the program chose by itself, and what it leaves out."""
    from service.engine.layout import WHY

    if options["dtype"] == "auto" and way(options) != "head":
        dtype = str(plan.recipe.dtype).removeprefix("torch.")
        click.echo(f"precision: {dtype}, {WHY[dtype]} (--dtype)", err=True)
    if cut:
        click.echo(f"{cut:,} of {rows:,} training rows are longer than what is read, and cut (--max-length)", err=True)


def _end_cut(bar: Bar | None) -> NoReturn:
    if bar is not None:
        bar.close()  # its line ends before ours
    kept = bar is not None and bar.kept
    end = "goes on after the last whole epoch" if kept else "would begin anew: no epoch is whole yet"
    click.echo(f"cut; the same command with --resume {end}", err=True)
    raise click.exceptions.Exit(128 + signal.SIGINT)


@click.command()
@click.argument("adapter")
@click.argument("data", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="All figures as JSON.")
@_with_columns
@url_option
def evaluate(adapter: str, data: Path, as_json: bool, **options: Any) -> None:
    """Measure ADAPTER on labelled DATA: an adapter file here, or the name of a task of a running service."""
    from service.training.columns import Columns
    from service.training.evaluate import evaluate as measure

    columns = Columns(options["text"], options["pair"], options["label"])
    if Path(adapter).is_file():
        manifest, ask = _local(Path(adapter), options)
        measured = measure(manifest, data, ask, columns, options["metric"])
        if ask.cut:
            click.echo(f"{ask.cut:,} of {measured.rows:,} inputs are longer than what is read, and cut", err=True)
    elif Path(adapter).suffix == ".safetensors":
        raise click.UsageError(f"there is no file {adapter}")
    else:
        with Client(options["url"]) as client:
            manifest, service = served(client, adapter)
            measured = measure(manifest, data, service, columns, options["metric"])
    if as_json:
        click.echo(json.dumps(measured.facts(), indent=2))
        return
    click.echo(figures(measured))
    width = max(map(len, measured.by_label), default=0)
    for label, counts in measured.by_label.items():
        rows = int(counts.hits + counts.missed)
        click.echo(
            f"  {label:<{width}}  {rows:>6,} rows  precision {counts.precision:.3f}  recall {counts.recall:.3f}  "
            f"F1 {counts.f1:.3f}"
        )


def _local(path: Path, options: dict[str, Any]) -> "tuple[Manifest, Asked]":
    import torch

    from service.adapters.file import read_header
    from service.engine.arranging import load_resident
    from service.engine.base_model import DEFAULT_BASE, load_base
    from service.training.evaluate import asking

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    data = path.read_bytes()
    with naming(path):
        read_header(data)  # before the base takes its time
        base = load_base(options["base_model"] or DEFAULT_BASE)
        resident = load_resident(base, data, version=1)
    return resident.manifest, asking(base, resident)


def served(client: Client, task: str) -> tuple[Any, Any]:
    """The served version's own manifest, and the service as what answers: that version, whatever is activated."""
    from service.adapters.file import read_header

    found = client.task(task)
    version = found["version"]
    if version is None:
        raise UnknownTask(f"task {task} is not served: {found['reason']}")
    manifest = read_header(client.file(task, version)).manifest
    names = ("question", "context") if manifest.kind == "answer" else ("text", "text_pair")

    def ask(inputs: "Sequence[Given]") -> "list[Answer]":
        sent: list[str | Mapping[str, str]] = [
            given.text if given.text_pair is None else dict(zip(names, (given.text, given.text_pair), strict=True))
            for given in inputs
        ]
        return [*map(dict, client.predict(task, sent, version=version))]

    return manifest, ask


COMMANDS = (train, evaluate)
