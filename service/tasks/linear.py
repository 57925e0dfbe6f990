"""The head that classification and regression share: one linear layer over the pooled row."""

import torch.nn.functional as F
from torch import Tensor

from service.adapters.manifest import HeadSettings, Manifest
from service.adapters.methods import Dims, Shape, Tensors
from service.tasks.base import Kind, pool


class LinearKind(Kind):
    def width(self, manifest: Manifest) -> int:
        """How many numbers the head puts out for an input."""
        raise NotImplementedError

    def head_shapes(self, manifest: Manifest, dims: Dims) -> dict[str, Shape]:
        width = self.width(manifest)
        return {"head.weight": (width, dims.hidden), "head.bias": (width,)}

    def features(self, settings: HeadSettings, hidden: Tensor, lengths: Tensor) -> Tensor:
        return pool(settings, hidden, lengths)

    def outputs(self, head: Tensors, features: Tensor) -> Tensor:
        return F.linear(features, head["head.weight"], head["head.bias"])  # [rows, width]
