"""Training: the same encoder, adapter maths and heads as serving, with gradients.

Three ways, side by side: an adapter of any method beside the frozen base, `head` on features computed once,
and `full`, fine-tuning of the base itself, the yardstick that is measured and never served.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from service.adapters.manifest import Manifest
from service.adapters.methods import Head
from service.engine.base_model import BaseModel
from service.engine.weights import Weights
from service.errors import Diverged
from service.tasks import Floats, kind_of
from service.training.answers import decoded, raw_outputs
from service.training.batches import shares, shuffled
from service.training.checkpoint import Checkpoint
from service.training.measure import value_of
from service.training.models import AdapterModel, Dropout, FullModel, HeadModel, Model, start_tensors
from service.training.recipe import Recipe
from service.training.sets import Set
from service.training.workers import Workers

PROOF_STEPS = 300  # after these, and a quarter of all, the loss is to be less than that of always answering the same


class Progress(NamedTuple):
    """Said after every step; `value` is the validation metric, after the last step of an epoch."""

    epoch: int
    step: int
    steps: int  # in all epochs
    loss: float
    value: float | None


class Worth(NamedTuple):
    """By which epochs and trainings are chosen: the validation set's metric and, where that is equal, its loss."""

    value: float
    negative_loss: float


@dataclass(frozen=True)
class Trained:
    """The best epoch's weights."""

    tensors: dict[str, Tensor]  # the adapter's, by name; float32
    worth: Worth
    epoch: int
    curve: list[float] = field(default_factory=list)  # the metric after each epoch
    losses: list[tuple[float, float]] = field(default_factory=list)  # by epoch, on training and on validation rows
    trainable: int = 0  # parameters that were trained
    weights: Weights | None = None  # the base's, where it was trained too

    @property
    def value(self) -> float:
        """The metric on the validation set."""
        return self.worth.value

    def model(self, base: BaseModel, manifest: Manifest) -> Model:
        """The weights as a model that answers, in float32."""
        base = replace(base, weights=self.weights or base.weights)
        return AdapterModel(base, manifest, {name: tensor.clone() for name, tensor in self.tensors.items()})


def train(
    base: BaseModel,
    manifest: Manifest,
    training: Set,
    validation: Set,
    recipe: Recipe,
    metric: str,
    report: Callable[[Progress], None] = lambda progress: None,
    checkpoint: Checkpoint | None = None,
    insist: bool = True,
) -> Trained:
    """Trains what the manifest's method says, and keeps the epoch that did best on the validation set.

    Args:
        checkpoint: written after each epoch, and gone on from if it holds one of this very training.
        insist: go on where nothing is learned at first; otherwise that is a training that diverged.

    Raises:
        Diverged: no epoch came to an end, or nothing was learned when much should have been.
        BadData: the checkpoint is of another training.
    """
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        tensors = start_tensors(base, manifest, torch.Generator().manual_seed(recipe.seed))
        model: Model
        if recipe.full:
            model = FullModel(base, manifest, tensors, recipe.dtype)
        elif isinstance(manifest.method, Head) and not manifest.method.norms:
            model = HeadModel(base, manifest, tensors)
        else:
            model = AdapterModel(base, manifest, tensors, recipe.dtype)
        with Workers() as workers:
            run = _Training(model, manifest, recipe, metric, training, validation, workers)
            return run.run(report, checkpoint, insist)


class _Training:
    """One run over the epochs: all that changes on the way, in one place, so that it can be kept and restored."""

    def __init__(
        self,
        model: Model,
        manifest: Manifest,
        recipe: Recipe,
        metric: str,
        training: Set,
        validation: Set,
        workers: Workers,
    ) -> None:
        self._model, self._manifest, self._recipe, self._metric = model, manifest, recipe, metric
        self._kind = kind_of(manifest)
        self._training, self._validation, self._workers = training, validation, workers
        self._lengths = [len(row) for row in training.rows]
        self._idle = self._kind.idle_loss(training.targets)
        self._trainable = model.trainable()
        self._optimizer = _optimizer(self._trainable, recipe)
        self._steps = recipe.epochs * math.ceil(len(training.rows) / recipe.batch_size)
        self._step = 0
        self._losses: list[float] = []  # by epoch
        self._judged: list[Worth] = []  # by epoch
        self._best: list[Tensor] = []
        self._best_epoch = 0
        self._average = (
            [parameter.detach().clone() for parameter in self._trainable] if recipe.averaging is not None else []
        )

    def run(self, report: Callable[[Progress], None], checkpoint: Checkpoint | None, insist: bool) -> Trained:
        if checkpoint is not None:
            self._restore(checkpoint)
        while len(self._judged) < self._recipe.epochs and not self._stale():
            epoch = len(self._judged) + 1
            loss = self._epoch(epoch, report)
            if not math.isfinite(loss):
                break  # nothing good can follow; what was best stays
            if not insist and loss >= self._idle and self._step >= max(PROOF_STEPS, self._steps / 4):
                rate = self._recipe.learning_rate
                raise Diverged(f"after {epoch} epochs nothing was learned at learning rate {rate:g}; try a smaller one")
            self._losses.append(loss)
            self._judge(epoch)
            if checkpoint is not None:
                self._keep(checkpoint)
            report(Progress(epoch, self._step, self._steps, loss, self._judged[-1].value))
        if not self._best:
            rate = self._recipe.learning_rate
            raise Diverged(f"the loss left all bounds at learning rate {rate:g}; try a smaller one")
        self._put(self._best)
        tensors, weights = self._model.snapshot()
        trained = sum(parameter.numel() for parameter in self._trainable)
        return Trained(
            tensors,
            worth=self._judged[self._best_epoch - 1],
            epoch=self._best_epoch,
            curve=[one.value for one in self._judged],
            losses=[(loss, -one.negative_loss) for loss, one in zip(self._losses, self._judged, strict=True)],
            trainable=trained,
            weights=weights,
        )

    def _epoch(self, epoch: int, report: Callable[[Progress], None]) -> float:
        """Returns the mean loss of the epoch's rows."""
        recipe, total = self._recipe, 0.0
        for batch in shuffled(self._lengths, recipe.batch_size, random.Random(f"{recipe.seed}/{epoch}")):
            for group in self._optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _rate(self._step, self._steps, recipe.warmup)
            loss = self._gradients(batch)
            torch.nn.utils.clip_grad_norm_(self._trainable, recipe.clip)
            self._optimizer.step()
            self._step += 1
            self._follow()
            total += loss * len(batch)
            report(Progress(epoch, self._step, self._steps, loss, None))
        return total / len(self._lengths)

    def _gradients(self, batch: list[int]) -> float:
        """Leaves the gradient of the batch's mean loss in the parameters, and returns the loss."""
        count = self._workers.count if self._model.shared else 1
        parts = [batch[part] for part in shares([self._lengths[i] for i in batch], count)]
        seeds = [int(torch.randint(2**62, ())) for _ in parts]
        found = self._workers.map(self._part, zip(parts, seeds, strict=True))
        judged = [self._kind.judged([self._training.targets[i] for i in part]) for part in parts]
        weights = [count / max(1, sum(judged)) for count in judged]
        for parameter, *gradients in zip(self._trainable, *(gradients for _, gradients in found), strict=True):
            parameter.grad = gradients[0].mul_(weights[0])
            for gradient, weight in zip(gradients[1:], weights[1:], strict=True):
                parameter.grad.add_(gradient, alpha=weight)
        return sum(weight * loss for weight, (loss, _) in zip(weights, found, strict=True))

    def _part(self, given: tuple[list[int], int]) -> tuple[float, Sequence[Tensor]]:
        """The mean loss of some rows, and its gradients."""
        rows, seed = given
        drop = Dropout(self._recipe.dropout, seed) if self._recipe.dropout else None
        outputs = self._model.outputs([self._training.rows[i] for i in rows], drop)
        targets = [self._training.targets[i] for i in rows]
        lengths = torch.tensor([self._lengths[i] for i in rows])
        error = self._kind.loss(outputs, targets, lengths)
        return error.item(), torch.autograd.grad(error, self._trainable, materialize_grads=True)

    def _follow(self) -> None:
        """Moves the average towards the weights: polynomial decay (Shamir and Zhang 2013, arXiv 1212.1824, section 4).

        With η, about the last 1/η of the steps taken so far count, whatever their number.
        """
        η = self._recipe.averaging
        if η is None:
            return
        with torch.no_grad():
            torch._foreach_lerp_(self._average, self._trainable, (η + 1) / (η + self._step))

    def _judge(self, epoch: int) -> None:
        """Measures the weights, averaged if they are, on the validation set, and keeps them if they are the best."""
        now = [parameter.detach().clone() for parameter in self._trainable]
        judged = self._average or now
        self._put(judged)
        worth = self._worth(raw_outputs(self._model, self._validation, self._workers))
        self._put(now)
        if not self._judged or worth > max(self._judged):
            self._best_epoch = epoch
            self._best = [tensor.clone() for tensor in judged]
        self._judged.append(worth)

    def _worth(self, raw: Sequence[Sequence[Floats]]) -> Worth:
        """What raw outputs for the validation set are worth, once calibrated."""
        validation, kind = self._validation, self._kind
        calibration = kind.calibrate(self._manifest, raw, validation.labelled, self._metric)
        answers = decoded(self._manifest.model_copy(update={"calibration": calibration}), validation, raw)
        rows = [torch.from_numpy(row) for reading in raw for row in reading]
        outputs = torch.cat(rows) if kind.per_token else torch.stack(rows)
        loss = kind.loss(outputs, validation.targets, torch.tensor([len(row) for row in validation.rows]))
        return Worth(value_of(self._manifest, self._metric, answers, validation.labels), -loss.item())

    def _put(self, tensors: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for parameter, tensor in zip(self._trainable, tensors, strict=True):
                parameter.copy_(tensor)

    def _stale(self) -> bool:
        patience = self._recipe.patience
        return patience is not None and len(self._judged) - self._best_epoch >= patience

    def _keep(self, checkpoint: Checkpoint) -> None:
        moments = self._optimizer.state_dict()["state"]
        checkpoint.write(
            {"judged": self._judged, "losses": self._losses, "best_epoch": self._best_epoch, "step": self._step},
            {
                "random": torch.get_rng_state(),
                **{f"now.{i}": parameter.detach() for i, parameter in enumerate(self._trainable)},
                **{f"average.{i}": tensor for i, tensor in enumerate(self._average)},
                **{f"best.{i}": tensor for i, tensor in enumerate(self._best)},
                **{f"moment.{i}.{name}": tensor for i, parts in moments.items() for name, tensor in parts.items()},
            },
        )

    def _restore(self, checkpoint: Checkpoint) -> None:
        found = checkpoint.read()
        if found is None:
            return
        facts, tensors = found
        self._judged = [Worth(*one) for one in facts["judged"]]
        self._losses, self._best_epoch, self._step = facts["losses"], facts["best_epoch"], facts["step"]
        self._best = [tensors[f"best.{i}"] for i in range(len(self._trainable))]
        self._average = [tensors[f"average.{i}"] for i in range(len(self._average))]
        self._put([tensors[f"now.{i}"] for i in range(len(self._trainable))])
        moments: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            if name.startswith("moment."):
                _, number, part = name.split(".")
                moments[int(number)][part] = tensor
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": dict(moments)})
        torch.set_rng_state(tensors["random"])


def _optimizer(trainable: Sequence[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    matrices = [tensor for tensor in trainable if tensor.dim() > 1]
    vectors = [tensor for tensor in trainable if tensor.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, recipe.beta2), fused=True)


def _rate(step: int, steps: int, warmup: float) -> float:
    rising = warmup * steps
    return (step + 1) / rising if step < rising else max(0.0, (steps - step) / max(1.0, steps - rising))
