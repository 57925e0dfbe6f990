"""The program `rootstock`. Each command is a thin skin over one module."""

import json
import logging
import math
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from pydantic import ValidationError

from service import __version__
from service.client import DEFAULT_URL, Client
from service.errors import BadAdapter, BadData, BadInput, RootstockError
from service.settings import Settings, environment_name

STOP_SECONDS = 20  # for requests in flight, after which the program ends without them
MAX_LAYERS = 1000  # what `inspect` believes of a base that it cannot see

_url_option = click.option("--url", envvar="ROOTSTOCK_URL", default=DEFAULT_URL, show_default=True, show_envvar=True)


class _Program(click.Group):
    """Errors that a caller can cause end a command with a sentence, not with a stack of calls."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RootstockError as error:
            raise click.ClickException(error.detail) from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise click.ClickException(": ".join(filter(None, (place, first["msg"])))) from error
        except OSError as error:
            if error.filename is None:  # a closed pipe, say: click's own business
                raise
            raise click.ClickException(f"{error.filename}: {error.strerror}") from error


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="rootstock")
def main() -> None:
    """Many text tasks from one frozen transformer."""


def _settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A flag and an environment variable for each row of the settings table."""
    for name, field in reversed(Settings.model_fields.items()):
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        command = click.option(
            f"--{name.replace('_', '-')}",
            type=click.Choice(choices) if choices else field.annotation,
            default=field.default,
            show_default=True,
            show_envvar=True,
            envvar=environment_name(name),
            help=field.description,
        )(command)
    return command


@main.command()
@_settings_options
def serve(**options: Any) -> None:
    """Run the service."""
    import uvicorn

    from service.api.app import create_app

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # uvicorn takes the signal, answers what is in flight, and raises it again; then this ends the program.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    settings = Settings(**options)
    app = create_app(settings)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_level="info",
        access_log=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--task", help="Name to serve it under. Default: the manifest's.")
@click.option("--activate/--no-activate", default=True, show_default=True)
@_url_option
def push(file: Path, task: str | None, activate: bool, url: str) -> None:
    """Upload an adapter FILE to a running service."""
    from service.adapters.file import read_header

    data = file.read_bytes()
    task = task or read_header(data).manifest.task
    with Client(url) as client:
        version = client.push(task, data, activate)
    click.echo(f"{task} version {version['version']} is {version['state']}")


@main.command()
@click.argument("task")
@click.argument("texts", nargs=-1)
@click.option("--pair", help="The second text, for tasks that compare two.")
@click.option("--top-k", type=click.IntRange(1), default=3, show_default=True)
@_url_option
def predict(task: str, texts: tuple[str, ...], pair: str | None, top_k: int, url: str) -> None:
    """Answer TEXTS (or the lines of standard input) with TASK; one JSON object a line."""
    given = list(texts) or _lines()
    if not given:
        raise click.UsageError("no text given")
    inputs = given if pair is None else [{"text": text, "text_pair": pair} for text in given]
    with Client(url) as client:
        for answer in client.predict(task, inputs, top_k=top_k):
            click.echo(json.dumps(answer, ensure_ascii=False))


def _lines() -> list[str]:
    try:
        return [line.rstrip("\n") for line in sys.stdin if line.strip()]
    except UnicodeDecodeError as error:
        raise BadInput("standard input is not UTF-8") from error


@main.command()
@_url_option
def tasks(url: str) -> None:
    """List what a running service serves."""
    with Client(url) as client:
        found = client.tasks()
    width = max(len(task["task"]) for task in found)
    for task in found:
        figure = f"{task['metric']} {task['value']:.3f}" if task["value"] is not None else ""
        labels = f"{len(task['labels'])} labels" if task["labels"] else ""
        form = "pair" if task["pair"] else "text"
        line = f"{task['task']:<{width}}  v{task['version']:<3} {task['kind']:<14} {form}  {labels:<10} {figure}"
        click.echo(line.rstrip())


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The whole manifest as JSON.")
def inspect(file: Path, as_json: bool) -> None:
    """Show what an adapter FILE says of itself, and whether it holds together."""
    from service.adapters.file import digest

    data = file.read_bytes()
    header = _whole(data)
    manifest = header.manifest
    if as_json:
        click.echo(manifest.model_dump_json(indent=2, exclude_none=True))
        return
    rows = {
        "task": f"{manifest.task} ({manifest.kind}, {'pair' if manifest.head.pair else 'text'})",
        "description": manifest.description,
        "method": " ".join(f"{name}={value}" for name, value in manifest.method.model_dump(exclude_none=True).items()),
        "labels": ", ".join(manifest.labels),
        "base": f"{manifest.base.name} ({manifest.base.fingerprint[:16]}…)",
        "max_length": f"{manifest.tokenizer.max_length} tokens",
        "trained": _facts(manifest.trained),
        "source": manifest.trained.source if manifest.trained else "",
        "licence": manifest.licence,
        "parameters": f"{sum(math.prod(shape) for shape in header.shapes.values()):,} in {len(header.shapes)} tensors",
        "file": f"{len(data):,} bytes, sha256 {digest(data)}",
    }
    for name, value in rows.items():
        if value:
            click.echo(f"{name:<12} {value}")


def _whole(data: bytes) -> Any:
    """The header of a file whose tensors are those that its manifest promises, for the base that it names."""
    import torch

    from service.adapters.file import check_shapes, read_header, read_tensors
    from service.adapters.methods import Dims
    from service.tasks import expected_shapes

    header = read_header(data)
    base = header.manifest.base
    if base.layers > MAX_LAYERS:
        raise BadAdapter(f"manifest: base.layers is {base.layers}; no base has more than {MAX_LAYERS}")
    check_shapes(header.shapes, expected_shapes(header.manifest, Dims(base.layers, base.hidden_size)))
    read_tensors(data, torch.float32)
    return header


def _facts(trained: Any) -> str:
    if trained is None:
        return ""
    test = f", {trained.test_value:.4f} on test" if trained.test_value is not None else ""
    return (
        f"{trained.metric} {trained.value:.4f} on validation{test}; "
        f"{trained.rows:,} rows, seed {trained.seed}, {trained.date}"
    )


@main.command()
@click.argument("training", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--task", required=True, help="Name of the task: small letters, digits, '.', '_' and '-'.")
@click.option(
    "--kind", type=click.Choice(["classification", "regression"]), default="classification", show_default=True
)
@click.option(
    "--validation",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Chooses the best epoch. Without it a tenth of TRAINING is set aside, by label.",
)
@click.option(
    "--test",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measured once, at the end, and noted in the file.",
)
@click.option(
    "--method",
    type=click.Choice(["houlsby", "head", "full"]),
    default="houlsby",
    show_default=True,
    help="full trains the base itself: a yardstick that is measured and never served.",
)
@click.option(
    "--bottleneck", type=click.IntRange(1, 4096), default=64, show_default=True, help="Adapter size (houlsby)."
)
@click.option("--epochs", type=click.IntRange(1), help="Default: by method.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="Default: by method.")
@click.option("--batch-size", type=click.IntRange(1), help="Default: 32.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--max-length", type=click.IntRange(8), default=128, show_default=True, help="Tokens kept of an input.")
@click.option("--pooling", type=click.Choice(["mean", "first"]), default="mean", show_default=True)
@click.option("--text", help="Column of the text. Default: guessed.")
@click.option("--pair", help="Column of the second text. Default: guessed.")
@click.option("--label", help="Column of the label. Default: guessed.")
@click.option(
    "--golden",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSONL of inputs ({text, text_pair}) kept in the file with their answers as a check. "
    "Default: the first validation rows.",
)
@click.option("--source", default="", help="Where the data come from; kept in the file.")
@click.option("--description", default="", help="What the task answers; kept in the file.")
@click.option("--licence", default="", help="Kept in the file.")
@click.option("--base-model", envvar="ROOTSTOCK_BASE_MODEL", help="Folder or name. Default: as `serve`.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="bfloat16",
    show_default=True,
    help="Precision of the frozen maths; what is trained stays float32.",
)
@click.option("--threads", type=click.IntRange(1), help="Default: one per core.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("."),
    show_default=True,
    help="Folder for <task>-1.safetensors.",
)
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path), help="Also write what was measured, as JSON."
)
def train(training: Path, **options: Any) -> None:
    """Train an adapter on TRAINING, a .csv, .tsv or .jsonl file with a text and a label column."""
    import torch

    from service.engine.base_model import DEFAULT_BASE, load_base
    from service.training.run import run

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    plan = _plan(training, options)
    for folder in (options["out"], options["report"] and options["report"].parent):
        if folder:  # made now: a folder that cannot be is no news for after the training
            folder.mkdir(parents=True, exist_ok=True)
    base = load_base(options["base_model"] or DEFAULT_BASE)
    bar = _Bar(plan.task)
    try:
        outcome = run(base, plan, bar.show)
    finally:
        bar.close()
    report = outcome.report
    click.echo(f"{report['metric']}: {report['validation']:.4f} on validation (epoch {report['best_epoch']})")
    if report["test"] is not None:
        click.echo(f"{report['metric']}: {report['test']:.4f} on test")
    click.echo(f"trained {report['trained_parameters']:,} parameters, {report['share_of_base']:.2%} of the base")
    if outcome.file is not None:
        path = options["out"] / f"{plan.task}-1.safetensors"
        path.write_bytes(outcome.file)
        click.echo(f"wrote {path} ({len(outcome.file) / 1e6:.2f} MB); serve it with: rootstock push {path}")
    if options["report"]:
        options["report"].write_text(json.dumps(report, indent=2) + "\n")


def _plan(training: Path, options: dict[str, Any]) -> Any:
    import torch

    from service.adapters.methods import Head, Houlsby
    from service.training.data import Columns
    from service.training.run import Plan
    from service.training.trainer import RECIPES

    given = {name: options[name] for name in ("epochs", "learning_rate", "batch_size") if options[name] is not None}
    recipe = replace(RECIPES[options["method"]], seed=options["seed"], dtype=getattr(torch, options["dtype"]), **given)
    method = Houlsby(bottleneck=options["bottleneck"]) if options["method"] == "houlsby" else Head()
    taken = ("task", "kind", "validation", "test", "max_length", "pooling", "source", "description", "licence")
    return Plan(
        method=method,
        recipe=recipe,
        training=training,
        columns=Columns(options["text"], options["pair"], options["label"]),
        golden=_golden(options["golden"]) if options["golden"] else (),
        **{name: options[name] for name in taken},
    )


def _golden(path: Path) -> list[Any]:
    from service.adapters.manifest import Input

    inputs = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            inputs.append(Input.model_validate_json(line))
        except ValidationError as error:
            raise BadData(f"{path}:{number}: {error.errors()[0]['msg']}") from error
    return inputs


class _Bar:
    """A live line: steps done, loss, the last epoch's metric, time left. Drawn on terminals only."""

    def __init__(self, task: str) -> None:
        from tqdm import tqdm

        self._bar = tqdm(desc=task, unit="step", disable=None, file=sys.stderr)
        self._value = ""

    def show(self, progress: Any) -> None:
        if progress.value is not None:
            self._value = f", validation {progress.value:.4f}"
            if self._bar.disable:
                click.echo(f"epoch {progress.epoch}: loss {progress.loss:.4f}{self._value}", err=True)
            return
        self._bar.total = progress.steps
        self._bar.set_postfix_str(f"epoch {progress.epoch}, loss {progress.loss:.3f}{self._value}", refresh=False)
        self._bar.update(progress.step - self._bar.n)

    def close(self) -> None:
        self._bar.close()


if __name__ == "__main__":
    main()
