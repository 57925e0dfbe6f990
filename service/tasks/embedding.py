"""Embedding: a text's vector of length one. The bare base does it; no adapter is needed."""

from collections.abc import Sequence

import numpy as np

from service.adapters.manifest import Manifest
from service.adapters.methods import Dims, Shape
from service.tasks.base import Floats, Kind, Prediction
from service.tasks.reading import Reading


class Embedding(Kind):
    name = "embedding"

    def width(self, manifest: Manifest) -> int:
        return manifest.base.hidden_size

    def head_shapes(self, manifest: Manifest, dims: Dims) -> dict[str, Shape]:
        return {}

    def decode(
        self, manifest: Manifest, reading: Reading, raw: Sequence[Floats], top_k: int | None = None
    ) -> Prediction:
        length = float(np.linalg.norm(raw[0].astype(np.float64)))  # squares overflow in float32
        vector = raw[0] / np.float32(max(length, 1e-12))
        return Prediction({"embedding": vector.tolist()}, vector)

    def distance(self, manifest: Manifest, found: Floats, golden: Floats) -> float:
        return float(np.linalg.norm(found - golden))  # one number of hundreds says nothing
