"""Adapters of random weights, of the shipped ones' size, for what does not depend on what they answer."""

from pathlib import Path

import torch

from service.adapters.file import write_adapter
from service.adapters.manifest import Manifest
from service.adapters.methods import AnyMethod, Houlsby
from service.engine.base_model import BaseModel
from service.tasks import expected_shapes


def made_adapter(base: BaseModel, number: int, method: AnyMethod | None = None) -> bytes:
    """An adapter file of the task `made-<number>`; no two have a number in common."""
    manifest = Manifest(
        task=f"made-{number}",
        kind="classification",
        method=method or Houlsby(),
        labels=["no", "yes"],
        base=base.identity,
    )
    generator = torch.Generator().manual_seed(number)
    shapes = expected_shapes(manifest, base.dims)
    tensors = {name: 0.01 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return write_adapter(manifest, tensors)


def make_store(base: BaseModel, folder: Path, adapters: int) -> None:
    """A store's folder with the tasks `made-0` to `made-<adapters - 1>`."""
    for number in range(adapters):
        (folder / f"made-{number}-1.safetensors").write_bytes(made_adapter(base, number))
