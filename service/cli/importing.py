"""import and export: adapters from and for other libraries."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.cli.plan import check_task
from service.cli.program import naming

if TYPE_CHECKING:
    from service.adapters.foreign import Base, Imported
    from service.adapters.manifest import Manifest
    from service.engine.base_model import BaseModel

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
NEUTRAL = (
    "The train leaves at nine.",
    "Nobody was at home.",
    "We had rain in the morning.",
    "The book is on the table.",
)
base_option = click.option(
    "--base-model", envvar="ROOTSTOCK_BASE_MODEL", help="Folder or name of the base it belongs to. Default: as `serve`."
)


@click.command("import")
@click.argument("folder", type=FOLDER)
@click.option("--task", required=True, help="Name of the task: small letters, digits, '.', '_' and '-'.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file to write.")
@click.option("--labels", help="Names of the head's rows in their order, separated by commas. Default: the folder's.")
@click.option("--pair", is_flag=True, help="An input is two texts.")
@click.option(
    "--pooling",
    type=click.Choice(["mean", "first"]),
    default="mean",
    show_default=True,
    help="Of an adapter without a head: how its tokens become one vector.",
)
@click.option("--max-length", type=click.IntRange(8), help="Tokens read at once. Default: by kind.")
@base_option
def import_(folder: Path, task: str, out: Path, **options: Any) -> None:
    """Write our one file from FOLDER, an adapter that AdapterHub's library or PEFT saved."""
    import torch

    from service.adapters.foreign import read_foreign
    from service.training.packing import packed

    check_task(task)
    base, foreign_base = _base(options["base_model"])
    labels = [label.strip() for label in options["labels"].split(",")] if options["labels"] else None
    with naming(folder):
        imported = read_foreign(folder, foreign_base, labels)
    manifest = _manifest(base, imported, task, options)
    if not _same_name(imported.base_name, base.name):
        click.echo(
            f"the adapter was trained on {imported.base_name or 'a base that it does not name'}, and is taken for "
            f"{base.name}: nothing in the folder tells whether their weights are the same",
            err=True,
        )
    data = packed(base, manifest, imported.tensors, _golden(manifest), torch.float32)
    out.write_bytes(data)
    click.echo(f"wrote {out} ({manifest.kind}, {manifest.method.name}, {len(data) / 1e6:.2f} MB)")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--to", "library", type=click.Choice(["peft"]), required=True, help="The library that shall read it.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write.")
@base_option
def export(file: Path, library: str, out: Path, base_model: str | None) -> None:
    """Write an adapter FILE of method lora as a folder that PEFT reads."""
    from safetensors.torch import save_file

    from service.adapters.file import read_tensors
    from service.adapters.foreign.export import to_peft
    from service.engine.arranging import fitting_header

    base, foreign_base = _base(base_model)
    data = file.read_bytes()
    with naming(file):
        header = fitting_header(base, data, len(data))
        own = {name: tensor.float() for name, tensor in read_tensors(data, header).items()}
        config, tensors = to_peft(header.manifest, own, foreign_base)
    out.mkdir(parents=True, exist_ok=True)
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    contiguous = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(contiguous, out / "adapter_model.safetensors", metadata={"format": "pt"})
    click.echo(f"wrote {out} ({config['task_type']}, rank {config['r']})")
    if header.manifest.kind == "tagging":
        tags = [f"{first}-{label}" for label in header.manifest.labels for first in "BI"]
        click.echo(f"the head's rows are {', '.join(['O', *tags])}")


def _base(name: str | None) -> "tuple[BaseModel, Base]":
    """The base, and what adapters of other libraries must know of its checkpoint."""
    from transformers import AutoConfig

    from service.adapters.foreign import Base
    from service.engine.architectures import ARCHITECTURES
    from service.engine.base_model import DEFAULT_BASE, load_base, locate

    base = load_base(name or DEFAULT_BASE)
    model_type = AutoConfig.from_pretrained(locate(name or DEFAULT_BASE)).model_type
    layers = base.dims.layers
    names = [ARCHITECTURES[model_type].layer_names(layer, layers) for layer in range(layers)]
    return base, Base(model_type, names, base.dims)


def _manifest(base: "BaseModel", imported: "Imported", task: str, options: dict[str, Any]) -> "Manifest":
    from service.adapters.manifest import HeadSettings, Manifest, TokenizerSettings
    from service.tasks import KINDS

    length = min(options["max_length"] or KINDS[imported.kind].max_length, base.max_length)
    return Manifest(
        task=task,
        kind=imported.kind,
        method=imported.method,
        labels=list(imported.labels),
        base=base.identity,
        tokenizer=TokenizerSettings(max_length=length),
        head=HeadSettings(
            pooling="first" if imported.pooled_first else options["pooling"],
            pair=options["pair"] or imported.kind == "answer",
        ),
        description=f"Imported from {imported.source}.",
    )


def _same_name(theirs: str, ours: str) -> bool:
    """Whether two names may mean one base: the last part is the same, whoever published it."""
    return theirs.rstrip("/").split("/")[-1].lower() == ours.split("/")[-1].lower()


def _golden(manifest: "Manifest") -> list[Any]:
    from service.adapters.manifest import Input

    seconds = NEUTRAL[::-1] if manifest.head.pair else [None] * len(NEUTRAL)
    return [Input(text=text, text_pair=second) for text, second in zip(NEUTRAL, seconds, strict=True)]


COMMANDS = (import_, export)
