"""The program `rootstock`. Each command is a thin skin over one module."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from service import __version__
from service.errors import BadData, RootstockError


class _Program(click.Group):
    """Our errors end a command with their sentence, not with a stack of calls."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RootstockError as error:
            raise click.ClickException(error.detail) from error


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="rootstock")
def main() -> None:
    """Many text tasks from one frozen transformer."""


@main.command()
@click.argument("training", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--task", required=True, help="Name of the task: small letters, digits, '.', '_' and '-'.")
@click.option("--kind", type=click.Choice(["classification", "regression"]), default="classification", show_default=True)
@click.option("--validation", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Chooses the best epoch. Without it a tenth of TRAINING is set aside, by label.")
@click.option("--test", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Measured once, at the end, and noted in the file.")
@click.option("--method", type=click.Choice(["houlsby", "head", "full"]), default="houlsby", show_default=True,
              help="full trains the base itself: a yardstick that is measured and never served.")
@click.option("--bottleneck", type=click.IntRange(1, 4096), default=64, show_default=True, help="Adapter size (houlsby).")
@click.option("--epochs", type=click.IntRange(1), help="Default: by method.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="Default: by method.")
@click.option("--batch-size", type=click.IntRange(1), help="Default: 32.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--max-length", type=click.IntRange(8), default=128, show_default=True, help="Tokens kept of an input.")
@click.option("--pooling", type=click.Choice(["mean", "first"]), default="mean", show_default=True)
@click.option("--text", help="Column of the text. Default: guessed.")
@click.option("--pair", help="Column of the second text. Default: guessed.")
@click.option("--label", help="Column of the label. Default: guessed.")
@click.option("--golden", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="JSONL of inputs ({text, text_pair}) kept in the file with their answers as a check. "
                   "Default: the first validation rows.")
@click.option("--source", default="", help="Where the data come from; kept in the file.")
@click.option("--description", default="", help="What the task answers; kept in the file.")
@click.option("--licence", default="", help="Kept in the file.")
@click.option("--base-model", envvar="ROOTSTOCK_BASE_MODEL", help="Folder or name. Default: as `serve`.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="bfloat16", show_default=True,
              help="Precision of the frozen maths; what is trained stays float32.")
@click.option("--threads", type=click.IntRange(1), help="Default: one per core.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("."), show_default=True,
              help="Folder for <task>-1.safetensors.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Also write what was measured, as JSON.")
def train(training: Path, **options: Any) -> None:
    """Train an adapter on TRAINING, a .csv, .tsv or .jsonl file with a text and a label column."""
    import torch

    from service.engine.base_model import DEFAULT_BASE, load_base
    from service.training.run import run

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    plan = _plan(training, options)
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
        options["out"].mkdir(parents=True, exist_ok=True)
        path = options["out"] / f"{plan.task}-1.safetensors"
        path.write_bytes(outcome.file)
        click.echo(f"wrote {path} ({len(outcome.file) / 1e6:.2f} MB); serve it with: rootstock push {path}")
    if options["report"]:
        options["report"].parent.mkdir(parents=True, exist_ok=True)
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
    from pydantic import ValidationError

    from service.adapters.manifest import Input

    inputs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
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
