"""serve: the service."""

import os
import platform
import sys
from collections.abc import Callable
from ctypes import CDLL
from functools import partial
from typing import Any, Literal, get_args, get_origin

import click

from service import logs
from service.settings import Settings, environment_name, flag_name

M_MMAP_THRESHOLD = -3  # of malloc.h
SWITCH_SECONDS = 0.0005  # between a thread's asking for the interpreter and its getting it


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


def _favour_the_event_loop() -> None:
    """Has it wait less for other threads.

    Each call into the system lets go of the interpreter, and to have it back from a thread that is busy in Python takes
    as long as the interval says: 5 ms by itself, several times a request. And the texts of a request are tokenised in
    one thread: several would wait until the last of them has got a processor from the engine.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@click.command()
@_settings_options
def serve(**options: Any) -> None:
    """Run the service."""
    from service.api.app import create_app
    from service.api.server import Server

    settings = Settings(**options)
    logs.set_up(settings.log_format)
    _give_back_large_blocks()
    _favour_the_event_loop()
    server = Server(settings, partial(create_app, settings))
    server.run()
    if server.failure is not None:
        raise server.failure


COMMANDS = (serve,)
