"""Training: the same encoder, adapter maths and heads as serving, with gradients.

Three ways, side by side: an adapter of any method beside the frozen base, `head` on features computed once,
and `full`, fine-tuning of the base itself, the yardstick that is measured and never served.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from service.adapters.manifest import Manifest
from service.adapters.methods import BARE, Adaptation, Head, Norm, Place
from service.engine.base_model import BaseModel
from service.engine.encoder import Group, encode
from service.engine.tokens import TokenizedRow, pack, tokenize
from service.engine.weights import Weights
from service.tasks import Floats, expected_shapes, kind_of
from service.training.data import Example

EVALUATION_TOKENS = 4096  # a batch of the measuring pass
SORTED_BATCHES = 32  # this many batches' rows are sorted by length together


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults suit a bottleneck adapter on a few thousand short texts."""

    epochs: int = 10
    learning_rate: float = 1e-3
    batch_size: int = 32
    warmup: float = 0.1  # share of the steps; linear up, then linear down to zero (paper, section 3.1)
    weight_decay: float = 0.01  # on matrices only
    dropout: float = 0.1
    clip: float = 1.0  # the gradient's norm
    seed: int = 0
    full: bool = False  # train the base too
    dtype: torch.dtype = torch.bfloat16  # of the linear layers' maths; what is trained stays float32


# Where to start by method: how many epochs, at which rate.
RECIPES = {
    "houlsby": Recipe(),
    "head": Recipe(epochs=60, learning_rate=1e-2, dropout=0.0),
    "full": Recipe(epochs=4, learning_rate=1e-4, full=True),
}


class Progress(NamedTuple):
    """Said after every step; `value` is the validation metric, after the last step of an epoch."""

    epoch: int
    step: int
    steps: int  # in all epochs
    loss: float
    value: float | None


@dataclass(frozen=True)
class Trained:
    """The best epoch's weights."""

    tensors: dict[str, Tensor]  # the adapter's, by name; float32
    value: float  # the kind's metric on the validation set
    epoch: int
    curve: list[float] = field(default_factory=list)  # the metric after each epoch
    trainable: int = 0  # parameters that were trained
    weights: Weights | None = None  # the base's, where it was trained too


@dataclass(frozen=True)
class Set:
    """Examples as the encoder reads them."""

    rows: list[TokenizedRow]
    targets: Tensor


def prepare(base: BaseModel, manifest: Manifest, examples: Sequence[Example]) -> Set:
    """Tokenises examples and turns their labels to numbers.

    Raises:
        ValueError: a label that does not belong to the task, or one text where it reads two; with its row.
    """
    for number, example in enumerate(examples, start=1):
        if (example.text_pair is not None) != manifest.head.pair:
            raise ValueError(f"row {number}: the task reads {'two texts' if manifest.head.pair else 'one text'}")
    pairs = [example.text_pair or "" for example in examples] if manifest.head.pair else None
    texts = [example.text for example in examples]
    rows = tokenize(base.tokenizer, texts, pairs, manifest.tokenizer.max_length)
    return Set(rows, kind_of(manifest).targets(manifest, [example.label for example in examples]))


def train(
    base: BaseModel,
    manifest: Manifest,
    training: Set,
    validation: Set,
    recipe: Recipe,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Trained:
    """Trains what the manifest's method says, and keeps the epoch that did best on the validation set."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        tensors = start_tensors(base, manifest, torch.Generator().manual_seed(recipe.seed))
        model: _Model
        if isinstance(manifest.method, Head) and not recipe.full:
            model = _HeadOnly(base, manifest, tensors)
        else:
            model = _WholePass(base, manifest, recipe, tensors)
        return _fit(model, manifest, training, validation, recipe, report)


def _fit(
    model: "_Model",
    manifest: Manifest,
    training: Set,
    validation: Set,
    recipe: Recipe,
    report: Callable[[Progress], None],
) -> Trained:
    kind = kind_of(manifest)
    trainable = model.trainable()
    optimizer = _optimizer(trainable, recipe)
    steps = recipe.epochs * math.ceil(len(training.rows) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, recipe.warmup))
    best, curve, step = Trained({}, -math.inf, 0), [], 0
    for epoch in range(1, recipe.epochs + 1):
        for batch in _batches(
            [len(row) for row in training.rows], recipe.batch_size, random.Random(f"{recipe.seed}/{epoch}")
        ):
            outputs = model.outputs([training.rows[i] for i in batch], dropout=recipe.dropout)
            loss = kind.loss(outputs, training.targets[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trainable, recipe.clip)
            optimizer.step()
            schedule.step()
            step += 1
            report(Progress(epoch, step, steps, loss.item(), None))
        value = kind.score(measure(model, validation.rows), validation.targets.numpy())
        curve.append(value)
        report(Progress(epoch, step, steps, loss.item(), value))
        if value > best.value:
            tensors, weights = model.snapshot()
            best = Trained(tensors, value, epoch, curve, sum(p.numel() for p in trainable), weights)
    return best


def measure(model: "_Model", rows: Sequence[TokenizedRow]) -> Floats:
    """Raw outputs for rows, in their order, without gradients or dropout."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found: list[Floats] = []
    with torch.inference_mode():
        for batch in _by_tokens(order, rows):
            found.extend(model.outputs([rows[i] for i in batch], dropout=0.0).numpy())
    restored: list[Any] = [None] * len(rows)
    for i, output in zip(order, found, strict=True):
        restored[i] = output
    return np.stack(restored)


def score(base: BaseModel, manifest: Manifest, trained: Trained, examples: Set) -> float:
    """The kind's metric of trained weights on a set, in float32."""
    if trained.weights is not None:
        base = replace(base, weights=trained.weights)
    model = _WholePass(base, manifest, Recipe(dtype=torch.float32), trained.tensors)
    return kind_of(manifest).score(measure(model, examples.rows), examples.targets.numpy())


class _Model:
    """Something with a head whose outputs can be computed and trained."""

    def trainable(self) -> list[Tensor]:
        raise NotImplementedError

    def outputs(self, rows: Sequence[TokenizedRow], dropout: float) -> Tensor:
        raise NotImplementedError

    def snapshot(self) -> tuple[dict[str, Tensor], Weights | None]:
        """Copies of what was trained: the adapter's tensors, and the base's if it was among them."""
        raise NotImplementedError


class _WholePass(_Model):
    """Encoder and head together: an adapter beside the frozen base, or the base itself."""

    def __init__(self, base: BaseModel, manifest: Manifest, recipe: Recipe, tensors: dict[str, Tensor]) -> None:
        self._manifest, self._dims, self._dtype, self._full = manifest, base.dims, recipe.dtype, recipe.full
        self._tensors = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
        if recipe.full:
            self._weights = deepcopy(base.weights.to(torch.float32))
            for tensor in self._weights.tensors():
                tensor.requires_grad_()
        else:
            self._weights = base.weights.to(recipe.dtype)

    def trainable(self) -> list[Tensor]:
        return [*self._tensors.values(), *(self._weights.tensors() if self._full else ())]

    def outputs(self, rows: Sequence[TokenizedRow], dropout: float) -> Tensor:
        manifest = self._manifest
        adaptation = manifest.method.adapt(self._dims, self._tensors, self._dtype)
        after_embedding = None
        if dropout:
            adaptation = _Dropping(adaptation, dropout)
            after_embedding = lambda x: F.dropout(x, dropout)  # noqa: E731
        batch = pack(rows)
        hidden = encode(self._weights.to(self._dtype), batch, [Group(slice(None), adaptation)], after_embedding)
        features = kind_of(manifest).features(manifest.head, hidden.float(), batch.lengths)
        return kind_of(manifest).outputs(self._tensors, F.dropout(features, dropout) if dropout else features)

    def snapshot(self) -> tuple[dict[str, Tensor], Weights | None]:
        tensors = {name: tensor.detach().clone() for name, tensor in self._tensors.items()}
        return tensors, deepcopy(self._weights) if self._full else None


class _HeadOnly(_Model):
    """Feature-based transfer: nothing below the head changes, so each row is encoded once for all epochs."""

    def __init__(self, base: BaseModel, manifest: Manifest, tensors: dict[str, Tensor]) -> None:
        self._manifest, self._base = manifest, base
        self._tensors = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
        self._features: dict[int, Tensor] = {}  # by the row's identity

    def trainable(self) -> list[Tensor]:
        return list(self._tensors.values())

    def outputs(self, rows: Sequence[TokenizedRow], dropout: float) -> Tensor:
        missing = [row for row in rows if id(row) not in self._features]
        if missing:
            self._encode(missing)
        features = torch.stack([self._features[id(row)] for row in rows])
        kind = kind_of(self._manifest)
        return kind.outputs(self._tensors, F.dropout(features, dropout) if dropout else features)

    def _encode(self, rows: Sequence[TokenizedRow]) -> None:
        batch = pack(rows)
        with torch.no_grad():
            hidden = encode(self._base.weights, batch, [Group(slice(None), BARE)])
        features = kind_of(self._manifest).features(self._manifest.head, hidden.float(), batch.lengths)
        for row, feature in zip(rows, features, strict=True):
            self._features[id(row)] = feature

    def snapshot(self) -> tuple[dict[str, Tensor], Weights | None]:
        return {name: tensor.detach().clone() for name, tensor in self._tensors.items()}, None


class _Dropping(Adaptation):
    """Dropout on each sub-layer's output, where BERT has it; then the adapter."""

    def __init__(self, inner: Adaptation, share: float) -> None:
        self._inner, self._share = inner, share

    def after_projection(self, layer: int, place: Place, projected: Tensor) -> Tensor:
        return self._inner.after_projection(layer, place, F.dropout(projected, self._share))

    def norm(self, layer: int, place: Place, own: Norm) -> Norm:
        return self._inner.norm(layer, place, own)


def start_tensors(base: BaseModel, manifest: Manifest, generator: torch.Generator) -> dict[str, Tensor]:
    """v₀: the method's near-identity start, and a small random head."""
    tensors = manifest.method.initial(base.dims, base.weights.norms(), generator)
    for name, shape in expected_shapes(manifest, base.dims).items():
        if name not in tensors:
            tensors[name] = torch.zeros(shape)
            if len(shape) > 1:
                tensors[name].normal_(std=0.02, generator=generator)
    return tensors


def _optimizer(trainable: Sequence[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    matrices = [tensor for tensor in trainable if tensor.dim() > 1]
    vectors = [tensor for tensor in trainable if tensor.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def _rate(step: int, steps: int, warmup: float) -> float:
    rising = warmup * steps
    return (step + 1) / rising if step < rising else max(0.0, (steps - step) / max(1.0, steps - rising))


def _batches(lengths: Sequence[int], size: int, generator: random.Random) -> Iterator[list[int]]:
    """A shuffled epoch in batches of nearly equal lengths, so that attention runs on few, full blocks."""
    order = list(range(len(lengths)))
    generator.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), size * SORTED_BATCHES):
        chunk = sorted(order[start : start + size * SORTED_BATCHES], key=lambda i: lengths[i])
        batches.extend(chunk[i : i + size] for i in range(0, len(chunk), size))
    generator.shuffle(batches)
    yield from batches


def _by_tokens(order: Sequence[int], rows: Sequence[TokenizedRow]) -> Iterator[list[int]]:
    batch: list[int] = []
    tokens = 0
    for i in order:
        if batch and tokens + len(rows[i]) > EVALUATION_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(i)
        tokens += len(rows[i])
    if batch:
        yield batch
