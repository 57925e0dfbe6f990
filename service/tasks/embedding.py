"""Embedding: a text's vector of length one. The bare base does it; no adapter is needed."""

import numpy as np
from torch import Tensor

from service.adapters.manifest import HeadSettings, Manifest
from service.adapters.methods import Dims, Shape, Tensors
from service.tasks.base import Floats, Kind, Prediction, pool


class Embedding(Kind):
    name = "embedding"
    metric = "none"

    def head_shapes(self, manifest: Manifest, dims: Dims) -> dict[str, Shape]:
        return {}

    def features(self, settings: HeadSettings, hidden: Tensor, lengths: Tensor) -> Tensor:
        return pool(settings, hidden, lengths)

    def outputs(self, head: Tensors, features: Tensor) -> Tensor:
        return features

    def decode(self, manifest: Manifest, raw: Floats, top_k: int | None = None) -> Prediction:
        length = float(np.linalg.norm(raw.astype(np.float64)))  # squares overflow in float32
        vector = raw / np.float32(max(length, 1e-12))
        return Prediction({"embedding": vector.tolist()}, vector)
