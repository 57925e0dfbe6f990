"""serve: the service."""

import platform
from collections.abc import Callable
from ctypes import CDLL
from functools import partial
from typing import Any, Literal, get_args, get_origin

import click

from service import logs
from service.settings import Settings, environment_name, flag_name

M_MMAP_THRESHOLD = -3  # of malloc.h


def _settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A flag and an environment variable for each row of the settings table."""
    for name, field in reversed(Settings.model_fields.items()):
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        command = click.option(
            flag_name(name),
            type=click.Choice(choices) if choices else field.annotation,
            is_flag=False,
            flag_value="true" if field.annotation is bool else None,  # --flag alone says it too
            default=field.default,
            show_default=True,
            show_envvar=True,
            envvar=environment_name(name),
            help=field.description,
        )(command)
    return command


def _give_back_large_blocks() -> None:
    """Has the C library take every block of a megabyte from the system, and give it back when it is freed.

    By itself it raises that limit to the largest block it saw freed. Reading an adapter takes some for a moment, among
    what stays: hundreds of adapters left holes twice their own size.
    """
    if platform.libc_ver()[0] == "glibc":
        CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)


@click.command()
@_settings_options
def serve(**options: Any) -> None:
    """Run the service."""
    from service.api.app import create_app
    from service.api.server import Server

    settings = Settings(**options)
    logs.set_up(settings.log_format)
    _give_back_large_blocks()
    server = Server(settings, partial(create_app, settings))
    server.run()
    if server.failure is not None:
        raise server.failure


COMMANDS = (serve,)
