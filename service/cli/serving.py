"""serve: the service."""

import logging
import platform
import signal
import sys
from collections.abc import Callable
from ctypes import CDLL
from typing import Any, Literal, get_args, get_origin

import click

from service.settings import Settings, environment_name

M_MMAP_THRESHOLD = -3  # of malloc.h
STOP_SECONDS = 20  # for requests in flight, after which the program ends without them


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
    import uvicorn

    from service.api.app import create_app

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # uvicorn takes the signal, answers what is in flight, and raises it again; then this ends the program.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    _give_back_large_blocks()
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


COMMANDS = (serve,)
