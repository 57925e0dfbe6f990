"""The group that all commands belong to, and what they share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from service import __version__
from service.client import DEFAULT_URL
from service.errors import BadAdapter, RootstockError

url_option = click.option("--url", envvar="ROOTSTOCK_URL", default=DEFAULT_URL, show_default=True, show_envvar=True)


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """What is wrong with an adapter is said with the name of its file."""
    try:
        yield
    except BadAdapter as error:
        raise BadAdapter(f"{file}: {error.detail}") from error


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
