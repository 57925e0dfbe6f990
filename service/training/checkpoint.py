"""A training under way, on disk: what is needed to go on with it after a kill as if nothing had happened."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from service.errors import BadData

FACTS_KEY = "training"


class Checkpoint:
    """One file, replaced whole; it belongs to one training, told by everything that decides its outcome."""

    def __init__(self, path: Path, training: str) -> None:
        """`training` names the recipe, the data and the base: a hash will do."""
        self._path = path
        self._training = training

    def write(self, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        metadata = {FACTS_KEY: json.dumps({"of": self._training, **facts})}
        data = save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=metadata)
        temporary = self._path.with_suffix(".writing")
        temporary.write_bytes(data)
        os.replace(temporary, self._path)

    def read(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """What was written last; None if nothing was.

        Raises:
            BadData: the file is of another training, or damaged.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            tensors = load_tensors(data)
            length = int.from_bytes(data[:8], "little")
            facts: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][FACTS_KEY])
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise BadData(f"{self._path}: not a checkpoint: {error}; remove it to begin anew") from error
        if facts.pop("of", None) != self._training:
            raise BadData(f"{self._path} is of another training (recipe, data or base); remove it to begin anew")
        return facts, tensors

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
