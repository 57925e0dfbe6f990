"""What is trained: something with a head whose outputs can be computed with gradients."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from service.adapters.manifest import Manifest
from service.adapters.methods import BARE, Adaptation, Place
from service.engine import native
from service.engine.base_model import BaseModel
from service.engine.encoder import Group, encode
from service.engine.packing import Packed, pack
from service.engine.weights import Weights
from service.tasks import Floats, TokenizedRow, expected_shapes, kind_of


class Model(ABC):
    """A task in training: its manifest, and the adapter's tensors as they are now."""

    shared: ClassVar[bool] = True  # whether threads gain by sharing a batch

    def __init__(self, manifest: Manifest, tensors: dict[str, Tensor]) -> None:
        self._manifest, self._kind = manifest, kind_of(manifest)
        self._tensors = {name: tensor.requires_grad_() for name, tensor in tensors.items()}

    def trainable(self) -> list[Tensor]:
        return list(self._tensors.values())

    @abstractmethod
    def outputs(self, rows: Sequence[TokenizedRow], drop: "Dropout | None" = None) -> Tensor:
        """The head's raw outputs, as the kind gives them: by row, or by token."""

    def by_row(self, rows: Sequence[TokenizedRow]) -> list[Floats]:
        """The same for each row, as the engine gives them; without dropout."""
        with torch.inference_mode():
            found = self.outputs(rows).numpy()
        ends = np.cumsum([len(row) for row in rows])
        return np.split(found, ends[:-1]) if self._kind.per_token else list(found)

    def snapshot(self) -> tuple[dict[str, Tensor], Weights | None]:
        """Copies of what was trained: the adapter's tensors, and the base's if it was among them."""
        return {name: tensor.detach().clone() for name, tensor in self._tensors.items()}, None

    def _head(self, features: Tensor, drop: "Dropout | None") -> Tensor:
        return self._kind.outputs(self._tensors, features if drop is None else drop(features))

    def _features(self, hidden: Tensor, batch: Packed) -> Tensor:
        return self._kind.features(self._manifest.head, hidden.float(), batch.lengths)


class AdapterModel(Model):
    """An adapter beside the frozen base."""

    def __init__(
        self, base: BaseModel, manifest: Manifest, tensors: dict[str, Tensor], dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(manifest, tensors)
        self._dims, self._weights = base.dims, _laid_out(base.weights, dtype)

    def outputs(self, rows: Sequence[TokenizedRow], drop: "Dropout | None" = None) -> Tensor:
        weights = self._now()
        adaptation = self._manifest.method.adapt(self._dims, self._tensors, weights.dtype)
        batch = pack(rows, [adaptation.prefix_length] * len(rows))
        if drop is not None:
            adaptation = Dropping.of(adaptation, drop)
        group = Group(slice(0, len(rows)), slice(0, len(batch.ids)), adaptation)
        return self._head(self._features(encode(weights, batch, [group], drop), batch), drop)

    def _now(self) -> Weights:
        """The base's weights in the precision of the maths."""
        return self._weights


class FullModel(AdapterModel):
    """The base itself, with a head: all of it is trained, in float32, whatever the maths is done in."""

    def __init__(self, base: BaseModel, manifest: Manifest, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
        super().__init__(base, manifest, tensors)
        self._dtype = dtype
        self._weights = deepcopy(self._weights)
        for tensor in self._weights.tensors():
            tensor.requires_grad_()

    def trainable(self) -> list[Tensor]:
        return [*super().trainable(), *self._weights.tensors()]

    def snapshot(self) -> tuple[dict[str, Tensor], Weights | None]:
        return super().snapshot()[0], deepcopy(self._weights)

    def _now(self) -> Weights:
        return self._weights.to(self._dtype)


class HeadModel(Model):
    """Feature-based transfer: nothing below the head changes, so each row is encoded once for all epochs."""

    shared = False  # a step is one small matrix

    def __init__(self, base: BaseModel, manifest: Manifest, tensors: dict[str, Tensor]) -> None:
        super().__init__(manifest, tensors)
        self._base = base
        self._known: dict[int, Tensor] = {}  # features by the row's identity

    def outputs(self, rows: Sequence[TokenizedRow], drop: "Dropout | None" = None) -> Tensor:
        missing = [row for row in rows if id(row) not in self._known]
        if missing:
            self._encode(missing)
        return self._head(torch.cat([self._known[id(row)] for row in rows]), drop)

    def _encode(self, rows: Sequence[TokenizedRow]) -> None:
        batch = pack(rows)
        with torch.no_grad():
            group = Group(slice(0, len(rows)), slice(0, len(batch.ids)), BARE)
            features = self._features(encode(self._base.weights, batch, [group]), batch)
        sizes = [len(row) if self._kind.per_token else 1 for row in rows]
        for row, feature in zip(rows, torch.split(features, sizes), strict=True):
            self._known[id(row)] = feature.clone()  # of its own, not a view of the whole batch


class Dropout:
    """Zeroes a share of all numbers, to the next 256th, and scales up the rest.

    torch draws its masks one bit after another in one thread, which took an eighth of a training step on two cores;
    bytes of a quick generator take a third of that.
    """

    def __init__(self, share: float, seed: int) -> None:
        self._zeroed = round(256 * share)  # of the 256 values of a byte
        self._random = np.random.Generator(np.random.SFC64(seed))

    def __call__(self, x: Tensor) -> Tensor:
        drawn = torch.from_numpy(self._random.integers(0, 256, x.numel(), dtype=np.uint8)).view(x.shape)
        return x * (drawn >= self._zeroed).to(x.dtype).mul_(256 / (256 - self._zeroed))


@dataclass(frozen=True, eq=False)
class Dropping(Adaptation):
    """Dropout on each sub-layer's output, where BERT has it; then the adapter."""

    drop: Dropout = field(kw_only=True)

    @classmethod
    def of(cls, inner: Adaptation, drop: Dropout) -> Self:
        return cls(inner.bottlenecks, inner.low_ranks, inner.prefixes, inner.norms, drop=drop)

    def after_projection(self, layer: int, place: Place, entered: Tensor, projected: Tensor) -> Tensor:
        return super().after_projection(layer, place, entered, self.drop(projected))


def _laid_out(weights: Weights, dtype: torch.dtype) -> Weights:
    """The frozen base for maths in `dtype`."""
    return native.frozen_weights(weights) if dtype == torch.int16 else weights.to(dtype)


def start_tensors(base: BaseModel, manifest: Manifest, generator: torch.Generator) -> dict[str, Tensor]:
    """v₀: the method's near-identity start, and a small random head."""
    tensors = manifest.method.initial(base.dims, base.weights.norms(), generator)
    for name, shape in expected_shapes(manifest, base.dims).items():
        if name not in tensors:
            tensors[name] = torch.zeros(shape)
            if len(shape) > 1:
                tensors[name].normal_(std=0.02, generator=generator)
    return tensors
