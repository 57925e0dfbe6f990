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

Watch = Callable[[int, int, Progress], None]  # (run, runs, progress)


def run(base: BaseModel, plan: Plan, data: Data, watch: Watch = lambda run, runs, progress: None) -> Outcome:
    """Trains, measures and packs. Of several seeds or learning rates, the best on validation is kept.

    Raises:
        BadData: the data hold nothing to learn from.
        Diverged: no recipe came to anything.
    """
    started = perf_counter()
    manifest = draft(base, plan, data)
    assert manifest.trained is not None
    metric = manifest.trained.metric
    sets = Sets(
        training=_prepare(base, manifest, data.training, plan.training),
        validation=_prepare(base, manifest, data.validation, plan.validation or plan.training),
        test=_prepare(base, manifest, data.test, plan.test or plan.training),
    )
    recipes = [
        replace(plan.recipe, seed=seed, learning_rate=rate)
        for rate, seed in product(plan.learning_rates or [plan.recipe.learning_rate], plan.seeds or [plan.recipe.seed])
    ]
    checkpoints = [_checkpoint(plan, manifest, recipe, data) for recipe in recipes]
    tried: list[Try] = []
    for number, (recipe, checkpoint) in enumerate(zip(recipes, checkpoints, strict=True), start=1):
        if checkpoint is not None and not plan.resume:
            checkpoint.remove()
        tell = partial(watch, number, len(recipes))
        try:
            trained = train(base, manifest, sets.training, sets.validation, recipe, metric, tell, checkpoint)
            tried.append(Try(recipe, trained))
        except Diverged:
            if number == len(recipes) and not tried:  # of several rates, one too many only loses
                raise
    outcome = finish(base, plan, manifest, tried, sets)
    seconds = perf_counter() - started
    epochs = sum(len(one.trained.curve) for one in tried)
    outcome.report.update(
        seconds=round(seconds, 1), examples_per_second=round(len(data.training) * epochs / seconds, 1)
    )
    for checkpoint in checkpoints:
        if checkpoint is not None:
            checkpoint.remove()
    return outcome


def _prepare(base: BaseModel, manifest: Manifest, examples: Sequence[Example], path: Path) -> Set:
    try:
        return prepare(base, manifest, examples)
    except Unfit as error:
        raise error.of(path) from error


def _checkpoint(plan: Plan, manifest: Manifest, recipe: Recipe, data: Data) -> Checkpoint | None:
    if plan.checkpoints is None:
        return None
    assert manifest.trained is not None
    settled = manifest.model_copy(update={"trained": None, "description": "", "licence": ""})
    facts = (settled, manifest.trained.metric, recipe, data.training, data.validation)
    return Checkpoint(
        plan.checkpoints / f"{plan.task}-{recipe.seed}-{recipe.learning_rate:g}.checkpoint",
        sha256(repr(facts).encode()).hexdigest(),
    )
