"""inspect: what an adapter file says."""

import math
from pathlib import Path
from typing import Any

import click

from service.cli.program import naming


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The whole manifest as JSON.")
def inspect(file: Path, as_json: bool) -> None:
    """Show what an adapter FILE says of itself, and whether it holds together."""
    from service.adapters.file import digest

    data = file.read_bytes()
    with naming(file):
        header = _whole(data)
    manifest = header.manifest
    if as_json:
        click.echo(manifest.model_dump_json(indent=2, exclude_none=True))
        return
    method = manifest.method.model_dump(exclude_none=True)
    rows = {
        "task": f"{manifest.task} ({manifest.kind}, {'pair' if manifest.head.pair else 'text'})",
        "description": manifest.description,
        "method": " ".join([method.pop("name"), *(f"{name}={value}" for name, value in method.items())]),
        "labels": ", ".join(manifest.labels),
        "base": f"{manifest.base.name} ({manifest.base.fingerprint[:16]}…)",
        "max_length": f"{manifest.tokenizer.max_length} tokens",
        "trained": _facts(manifest.trained),
        "source": manifest.trained.source if manifest.trained else "",
        "licence": manifest.licence,
        "parameters": f"{sum(math.prod(shape) for shape in header.shapes.values()):,} in {len(header.shapes)} tensors",
        "file": f"{len(data):,} bytes, sha256 {digest(data)}",
    }
    for name, value in rows.items():
        if value:
            click.echo(f"{name:<12} {value}")


def _whole(data: bytes) -> Any:
    """The header of a file whose tensors are those that its manifest promises, for the base that it names."""
    from service.adapters.file import check_shapes, read_header, read_tensors
    from service.tasks import expected_shapes

    header = read_header(data)
    check_shapes(header.shapes, expected_shapes(header.manifest, header.manifest.base.dims))
    read_tensors(data, header)
    return header


def _facts(trained: Any) -> str:
    if trained is None:
        return ""
    test = f", {trained.test_value:.4f} on test" if trained.test_value is not None else ""
    return (
        f"{trained.metric} {trained.value:.4f} on validation{test}; "
        f"{trained.rows:,} rows, seed {trained.seed}, {trained.date}"
    )


COMMANDS = (inspect,)
