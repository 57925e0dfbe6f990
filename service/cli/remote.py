"""push, predict, tasks: what is asked of a running service."""

import json
import sys
from pathlib import Path

import click

from service.cli.program import url_option
from service.client import Client
from service.errors import BadInput


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--task", help="Name to serve it under. Default: the manifest's.")
@click.option("--activate/--no-activate", default=True, show_default=True)
@url_option
def push(file: Path, task: str | None, activate: bool, url: str) -> None:
    """Upload an adapter FILE to a running service."""
    from service.adapters.file import read_header

    data = file.read_bytes()
    task = task or read_header(data).manifest.task
    with Client(url) as client:
        version = client.push(task, data, activate)
    click.echo(f"{task} version {version['version']} is {version['state']}")


@click.command()
@click.argument("task")
@click.argument("texts", nargs=-1)
@click.option("--pair", help="The second text, for tasks that compare two.")
@click.option("--context", help="The passage, for tasks that answer questions; TEXTS are the questions.")
@click.option("--top-k", type=click.IntRange(1), default=3, show_default=True)
@click.option("--version", type=click.IntRange(0), help="Another version than the active one.")
@click.option("--sticky-key", help="A user or a session: while a candidate answers a share, one version answers it.")
@url_option
def predict(
    task: str,
    texts: tuple[str, ...],
    pair: str | None,
    context: str | None,
    top_k: int,
    version: int | None,
    sticky_key: str | None,
    url: str,
) -> None:
    """Answer TEXTS (or the lines of standard input) with TASK; one JSON object a line."""
    given = list(texts) or _lines()
    if not given:
        raise click.UsageError("no text given")
    if pair is not None and context is not None:
        raise click.UsageError("--pair and --context exclude each other")
    inputs: list[str | dict[str, str]] = [*given]
    if pair is not None:
        inputs = [{"text": text, "text_pair": pair} for text in given]
    elif context is not None:
        inputs = [{"question": text, "context": context} for text in given]
    with Client(url) as client:
        for answer in client.predict(task, inputs, top_k=top_k, version=version, sticky_key=sticky_key):
            click.echo(json.dumps(answer, ensure_ascii=False))


def _lines() -> list[str]:
    try:
        return [line.rstrip("\n") for line in sys.stdin if line.strip()]
    except UnicodeDecodeError as error:
        raise BadInput("standard input is not UTF-8") from error


@click.command()
@url_option
def tasks(url: str) -> None:
    """List what a running service serves."""
    with Client(url) as client:
        found = client.tasks()
    width = max(len(task["task"]) for task in found)
    for task in found:
        if task["version"] is None:
            version = "-" if task["active"] is None else f"v{task['active']}"
            click.echo(f"{task['task']:<{width}}  {version:<4} is not served: {task['reason']}")
            continue
        figure = f"{task['metric']} {task['value']:.3f}" if task["value"] is not None else ""
        labels = f"{len(task['labels'])} labels" if task["labels"] else ""
        form = "pair" if task["pair"] else "text"
        line = f"{task['task']:<{width}}  v{task['version']:<3} {task['kind']:<14} {form}  {labels:<10} {figure}"
        click.echo(line.rstrip())


COMMANDS = (push, predict, tasks)
