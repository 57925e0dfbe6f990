"""The files of a foreign folder: configs of known fields, and tensors that are all accounted for."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from service.errors import BadAdapter

CONFIG = "adapter_config.json"
SAYS_NOTHING: tuple[Any, ...] = (None, False, "", [], {})


class Only(NamedTuple):
    """A field of which we can express some values alone."""

    values: Collection[Any]
    why: str  # what another value would change


def read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadAdapter(f"there is no {path.name}") from None
    except (ValueError, RecursionError) as error:
        raise BadAdapter(f"{path.name} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise BadAdapter(f"{path.name} is not a JSON object")
    return config


def check_fields(
    config: Mapping[str, Any], used: Collection[str], idle: Collection[str], only: Mapping[str, Only]
) -> None:
    """Refuses what is not understood: an unknown field, unless it says nothing, or a value that we cannot express.

    Args:
        used: fields that are read elsewhere.
        idle: fields that count in training alone.
    """
    for name, value in config.items():
        if name in only:
            if value not in only[name].values:
                raise BadAdapter(f"{name} = {json.dumps(value)} is not supported: {only[name].why}")
        elif name not in used and name not in idle and value not in SAYS_NOTHING:
            raise BadAdapter(f"{name} = {json.dumps(value)} is not supported: the field is not known")


class Tensors:
    """Tensors in float32, each of which must be taken."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._left = dict(tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor of this name, which nobody can take again."""
        tensor = self._left.pop(name, None)
        if tensor is None:
            raise BadAdapter(f"tensor {name} {list(shape)} is missing")
        if tuple(tensor.shape) != shape:
            raise BadAdapter(f"tensor {name} has shape {list(tensor.shape)}, expected {list(shape)}")
        return tensor

    def finish(self) -> None:
        """Refuses a tensor that nobody took: without it, answers would differ in silence."""
        if self._left:
            name, tensor = next(iter(sorted(self._left.items())))
            others = f" (and {len(self._left) - 1} others)" if len(self._left) > 1 else ""
            raise BadAdapter(f"tensor {name} {list(tensor.shape)} is left over{others}: no supported part takes it")


def read_tensors(folder: Path, files: Sequence[str]) -> dict[str, Tensor] | None:
    """The tensors of the first of these files that is there, in float32; None where none is.

    A `.bin` is a pickle: torch's loader for weights alone reads it, which runs no code of the file's.
    """
    path = next((folder / file for file in files if (folder / file).is_file()), None)
    if path is None:
        return None
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise BadAdapter(f"{path.name} cannot be read: {error}") from error
    if not isinstance(tensors, dict):
        raise BadAdapter(f"{path.name} is not a table of tensors")
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise BadAdapter(f"{path.name}: {name} is not a tensor of floating point numbers")
        if not torch.isfinite(tensor).all():
            raise BadAdapter(f"tensor {name} holds values that are not finite numbers")
    return {name: tensor.float() for name, tensor in tensors.items()}


def whole(config: Mapping[str, Any], name: str) -> int:
    """A field that is a whole number above zero."""
    value = config.get(name)
    if type(value) is not int or value < 1:
        raise BadAdapter(f"{name} = {json.dumps(value)} is not a whole number above zero")
    return value


def number(config: Mapping[str, Any], name: str) -> float:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadAdapter(f"{name} = {json.dumps(value)} is not a number")
    return float(value)
