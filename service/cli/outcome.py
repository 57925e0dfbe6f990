"""What a training came to, on the terminal and on disk."""

import json
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.cli.program import naming

if TYPE_CHECKING:
    from service.training.measure import Measured
    from service.training.outcome import Outcome
    from service.training.plan import Plan


def write(plan: "Plan", outcome: "Outcome", folder: Path, to: Path | None) -> None:
    """Says how good the adapter is, and leaves its file and its page in `folder`; its report in `to`."""
    from service.adapters.file import read_header
    from service.training.report import render

    report, full = outcome.report, plan.recipe.full
    for rate, seed in _diverged(plan, report):
        click.echo(f"seed {seed} at learning rate {rate:g}: nothing was learned", err=True)
    click.echo(f"validation (epoch {report['best_epoch']}): {figures(outcome.validation)}")
    if outcome.test is not None:
        click.echo(f"test: {figures(outcome.test)}")
    click.echo(f"trained {report['trained_parameters']:,} parameters, {report['share_of_base']:.2%} of the base")
    page = folder / f"{plan.task}{'-full' if full else ''}-report.html"
    page.write_text(render(report), encoding="utf-8")
    click.echo(f"wrote {page}")
    if to is not None:
        to.write_text(json.dumps(report, indent=2) + "\n")
    if outcome.file is not None:
        path = folder / f"{plan.task}-1.safetensors"
        with naming(path):
            read_header(outcome.file)  # what no service could read is not written
        path.write_bytes(outcome.file)
        click.echo(f"wrote {path} ({len(outcome.file) / 1e6:.2f} MB); serve it with: rootstock push {path}")


def _diverged(plan: "Plan", report: dict[str, Any]) -> list[tuple[float, int]]:
    """The runs that came to nothing beside the others."""
    tried = {(one["learning_rate"], one["seed"]) for one in report["tried"]}
    runs = product(plan.learning_rates or [plan.recipe.learning_rate], plan.seeds or [plan.recipe.seed])
    return [run for run in runs if run not in tried]


def figures(measured: "Measured") -> str:
    low, high = measured.interval
    others = "".join(f", {name} {value:.4f}" for name, value in measured.others.items())
    error = measured.calibration_error
    honest = f", calibration error {error:.4f}" if error is not None else ""
    return f"{measured.metric} {measured.value:.4f} ({low:.4f} to {high:.4f}) on {measured.rows:,} rows{others}{honest}"
