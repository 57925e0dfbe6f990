"""keys: who may call the service."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from service.api.keys import KeysFile, Scope
from service.settings import environment_name


@click.group()
def keys() -> None:
    """Make, list and remove the API keys of a service.

    A service that runs with the same --keys-file follows each change within seconds.
    """


def _keys_file(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--keys-file",
        envvar=environment_name("keys_file"),
        show_envvar=True,
        required=True,
        type=click.Path(dir_okay=False, path_type=Path),
        help="The file that holds the keys' hashes.",
    )(command)


@keys.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(get_args(Scope)),
    multiple=True,
    required=True,
    help="What the key may do; several may be named. admin may do all.",
)
@click.option("--task", "tasks", multiple=True, help="Limit it to this task; several may be named. Default: all tasks.")
@_keys_file
def add(name: str, scopes: tuple[Scope, ...], tasks: tuple[str, ...], keys_file: Path) -> None:
    """Make a key called NAME, and print it: once, for it is kept nowhere."""
    click.echo(KeysFile(keys_file).add(name, scopes, tasks))
    click.echo(f"this is the only time that key {name} is shown; callers set it as ROOTSTOCK_KEY", err=True)


@keys.command("list")
@_keys_file
def list_keys(keys_file: Path) -> None:
    """List the keys: name, day, scopes and tasks."""
    table = KeysFile(keys_file).read()
    width = max((len(key.name) for key in table.keys), default=0)
    for key in table.keys:
        tasks = ", ".join(key.tasks) if key.tasks else "all tasks"
        click.echo(f"{key.name:<{width}}  {key.made}  {', '.join(key.scopes):<15}  {tasks}")


@keys.command()
@click.argument("name")
@_keys_file
def remove(name: str, keys_file: Path) -> None:
    """Remove the key called NAME."""
    KeysFile(keys_file).remove(name)
    click.echo(f"removed {name}")


COMMANDS = (keys,)
