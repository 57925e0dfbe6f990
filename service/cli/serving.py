"""serve: the service."""

import logging
import signal
import sys
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import click

from service.settings import Settings, environment_name

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


@click.command()
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


COMMANDS = (serve,)
