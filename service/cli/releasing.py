"""release: a new version beside the active one, step by step."""

from datetime import datetime

import click

from service.cli.program import url_option
from service.client import CandidateFacts, Client, TaskVersions
from service.errors import UnknownCandidate

task_argument = click.argument("task")


@click.group()
def release() -> None:
    """Try a new version of a task beside the active one.

    \b
    rootstock push mood-2.safetensors --no-activate
    rootstock release shadow mood 2      both run on all requests, version 1 answers them
    rootstock release status mood        how often they agree, how long they take
    rootstock release share mood 0.1     version 2 answers a tenth of the traffic
    rootstock release promote mood       … or abandon
    """


@release.command()
@task_argument
@click.argument("version", type=click.IntRange(1))
@click.option("--share", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Of the requests, 0 to 1.")
@url_option
def shadow(task: str, version: int, share: float, url: str) -> None:
    """Have VERSION of TASK run on requests too; the active version answers them all."""
    with Client(url) as client:
        click.echo(_said(client.nominate(task, version, "shadow", share)))


@release.command()
@task_argument
@click.argument("share", type=click.FloatRange(0, 1))
@click.option("--version", type=click.IntRange(1), help="Which version. Default: the candidate that stands.")
@url_option
def share(task: str, share: float, version: int | None, url: str) -> None:
    """Have the candidate of TASK answer a SHARE of the requests, 0 to 1."""
    with Client(url) as client:
        if version is None:
            version = _candidate(client.versions(task))["version"]
        click.echo(_said(client.nominate(task, version, "share", share)))


@release.command()
@task_argument
@url_option
def promote(task: str, url: str) -> None:
    """Make the candidate of TASK its active version."""
    with Client(url) as client:
        version = client.promote(task)
    click.echo(f"{task} version {version['version']} is {version['state']}")


@release.command()
@task_argument
@url_option
def abandon(task: str, url: str) -> None:
    """End the release of TASK; the active version answers all as before."""
    with Client(url) as client:
        client.abandon(task)
    click.echo(f"{task} has no candidate any more")


@release.command()
@task_argument
@url_option
def status(task: str, url: str) -> None:
    """Show how the candidate of TASK compares with the active version."""
    with Client(url) as client:
        found = client.versions(task)
    candidate = _candidate(found)
    click.echo(_said(found))
    agreement = f"{candidate['agreement']:.2%}" if candidate["agreement"] is not None else "unknown"
    since = datetime.fromisoformat(candidate["since"])
    click.echo(
        f"since {since:%Y-%m-%d %H:%M} UTC: agreement {agreement} of {candidate['compared']:,} inputs compared; "
        f"{candidate['failed']:,} failed, {candidate['dropped']:,} dropped"
    )
    for role, seen in candidate["seen"].items():
        click.echo(
            f"version {seen['version']:<3} {role:<10} {seen['requests']:>8,} requests {seen['failed']:>6,} failed"
            f"   p50 {_milliseconds(seen['latency']['p50'])}   p95 {_milliseconds(seen['latency']['p95'])}"
        )


def _candidate(found: TaskVersions) -> CandidateFacts:
    """
    Raises:
        UnknownCandidate
    """
    if found["candidate"] is None:
        raise UnknownCandidate(f"task {found['task']} has no candidate: version {found['active']} answers all")
    return found["candidate"]


def _said(found: TaskVersions) -> str:
    candidate = _candidate(found)
    number, share = candidate["version"], f"{100 * candidate['share']:.4g}%"
    if candidate["mode"] == "share":
        return f"{found['task']} version {number} answers {share} of the requests, version {found['active']} the rest"
    return f"{found['task']} version {found['active']} answers all requests, version {number} shadows {share} of them"


def _milliseconds(seconds: float | None) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds is not None else "–"


COMMANDS = (release,)
