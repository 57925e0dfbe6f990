"""One run from examples to a finished adapter file, with what is known about it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from time import perf_counter

from service.adapters.manifest import Manifest
from service.engine.base_model import BaseModel
from service.errors import Diverged
from service.training.checkpoint import Checkpoint
from service.training.data import Example
from service.training.draft import draft
from service.training.outcome import Outcome, Sets, Try, finish
from service.training.plan import Data, Plan
from service.training.recipe import Recipe
from service.training.sets import Set, Unfit, prepare
from service.training.trainer import Progress, train

HALVINGS = 2  # of the rate, where nothing is learned at it and nobody asked for it

Watch = Callable[[int, int, Progress], None]  # (run, runs, progress)


def run(base: BaseModel, plan: Plan, data: Data, watch: Watch = lambda run, runs, progress: None) -> Outcome:
    """Trains, measures and packs. Of several seeds or learning rates, the best on validation is kept.

    Raises:
        BadData: the data hold nothing to learn from.
        Diverged: no recipe came to anything.
    """
    started = perf_counter()
    one = _Run(base, plan, data)
    recipes = [
        replace(plan.recipe, seed=seed, learning_rate=rate)
        for rate, seed in product(plan.learning_rates or [plan.recipe.learning_rate], plan.seeds or [plan.recipe.seed])
    ]
    tried: list[Try] = []
    for number, recipe in enumerate(recipes, start=1):
        try:
            tried.append(one.train(recipe, partial(watch, number, len(recipes))))
        except Diverged:
            if number == len(recipes) and not tried:  # of several rates, one too many only loses
                raise
    outcome = finish(base, plan, one.manifest, tried, one.sets)
    seconds = perf_counter() - started
    epochs = sum(len(one.trained.curve) for one in tried)
    outcome.report.update(
        seconds=round(seconds, 1), examples_per_second=round(len(data.training) * epochs / seconds, 1)
    )
    for recipe, _ in tried:
        one.forget(recipe)
    return outcome


class _Run:
    """What all trainings of a run share."""

    def __init__(self, base: BaseModel, plan: Plan, data: Data) -> None:
        self._base, self._plan, self._data = base, plan, data
        self.manifest = manifest = draft(base, plan, data)
        self.sets = Sets(
            training=_prepare(base, manifest, data.training, plan.training),
            validation=_prepare(base, manifest, data.validation, plan.validation or plan.training),
            test=_prepare(base, manifest, data.test, plan.test or plan.training),
        )

    def train(self, recipe: Recipe, report: Callable[[Progress], None]) -> Try:
        """Trains once; at half the rate if nothing is learned at the recipe's, unless that was asked for.

        A high rate suits most data, and on some it wrecks the encoder's vectors in the first epoch.
        """
        assert self.manifest.trained is not None
        metric = self.manifest.trained.metric
        halvings = 0 if self._plan.learning_rates else HALVINGS
        rates = [recipe.learning_rate / 2**halving for halving in range(halvings + 1)]
        for rate in rates:
            now, last = replace(recipe, learning_rate=rate), rate == rates[-1]
            checkpoint = self._checkpoint(now)
            if checkpoint is not None and not self._plan.resume:
                checkpoint.remove()
            try:
                sets = self.sets.training, self.sets.validation
                return Try(now, train(self._base, self.manifest, *sets, now, metric, report, checkpoint, insist=last))
            except Diverged:
                self.forget(now)
                if last:
                    raise
        raise AssertionError("the last rate returns or raises")

    def forget(self, recipe: Recipe) -> None:
        """Removes what a training left to be gone on with."""
        if checkpoint := self._checkpoint(recipe):
            checkpoint.remove()

    def _checkpoint(self, recipe: Recipe) -> Checkpoint | None:
        plan, trained = self._plan, self.manifest.trained
        if plan.checkpoints is None:
            return None
        assert trained is not None
        settled = self.manifest.model_copy(update={"trained": None, "description": "", "licence": ""})
        facts = (settled, trained.metric, recipe, self._data.training, self._data.validation)
        return Checkpoint(
            plan.checkpoints / f"{plan.task}-{recipe.seed}-{recipe.learning_rate:g}.checkpoint",
            sha256(repr(facts).encode()).hexdigest(),
        )


def _prepare(base: BaseModel, manifest: Manifest, examples: Sequence[Example], path: Path) -> Set:
    try:
        return prepare(base, manifest, examples)
    except Unfit as error:
        raise error.of(path) from error
