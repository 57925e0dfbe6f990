"""reference: pages that are made from the code."""

from collections.abc import Callable

import click

from service.cli.reference import http, metrics, settings

PAGES: dict[str, Callable[[], str]] = {"settings": settings.page, "metrics": metrics.page, "http": http.page}


@click.command()
@click.argument("page", type=click.Choice(list(PAGES)))
def reference(page: str) -> None:
    """Print a page of the reference, in Markdown: all settings, metrics, or calls over HTTP."""
    click.echo(PAGES[page](), nl=False)


COMMANDS = (reference,)
