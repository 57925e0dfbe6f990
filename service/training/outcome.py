"""What comes of a training: a calibrated, measured adapter file, and a report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from service.adapters.file import digest
from service.adapters.manifest import Input, Manifest
from service.engine.base_model import BaseModel
from service.tasks import Floats, kind_of
from service.training.answers import decoded, raw_outputs
from service.training.measure import Measured, measure_answers
from service.training.packing import packed
from service.training.plan import Plan
from service.training.recipe import Recipe
from service.training.sets import Set
from service.training.trainer import Trained
from service.training.workers import Workers

GOLDEN = 4  # examples kept in the file
TOLD = ("epochs", "learning_rate", "batch_size", "dropout", "averaging", "beta2", "seed")  # of the recipe


class Try(NamedTuple):
    """One of the trainings of a run."""

    recipe: Recipe
    trained: Trained


class Sets(NamedTuple):
    training: Set
    validation: Set
    test: Set  # may be empty


@dataclass(frozen=True)
class Outcome:
    """A finished training. `file` is None where the base itself was trained: that is never served."""

    manifest: Manifest
    file: bytes | None
    validation: Measured
    test: Measured | None
    report: dict[str, Any]


def finish(base: BaseModel, plan: Plan, manifest: Manifest, tried: Sequence[Try], sets: Sets) -> Outcome:
    """Calibrates the best of the trainings on the validation set, measures what will be stored, and packs the file.

    Args:
        manifest: the draft that was trained for.
    """
    draft = manifest.trained
    assert draft is not None
    metric = draft.metric
    recipe, best = max(tried, key=lambda one: one.trained.worth)
    # The file holds half precision, so that is what is measured.
    trained = replace(best, tensors={name: tensor.half().float() for name, tensor in best.tensors.items()})
    model = trained.model(base, manifest)
    with Workers() as workers:
        raw, raw_test = (raw_outputs(model, one, workers) for one in (sets.validation, sets.test))
    calibration = kind_of(manifest).calibrate(manifest, raw, sets.validation.labelled, metric)
    manifest = manifest.model_copy(update={"calibration": calibration})

    def measure(examples: Set, raw: Sequence[Sequence[Floats]]) -> Measured:
        return measure_answers(manifest, decoded(manifest, examples, raw), examples.labels, metric)

    validation = measure(sets.validation, raw)
    test = measure(sets.test, raw_test) if sets.test.readings else None
    facts = {"value": validation.value, "test_value": test.value if test else None, "seed": recipe.seed}
    manifest = manifest.model_copy(update={"trained": draft.model_copy(update=facts)})
    golden = plan.golden or [
        Input(text=given.text, text_pair=given.text_pair) for given, _ in sets.validation.readings[:GOLDEN]
    ]
    file = None if recipe.full else packed(base, manifest, trained.tensors, golden)
    report = {
        **_result(manifest, validation, test),
        **_way(plan, recipe, trained, tried),
        "rows": len(sets.training.readings),
        "trained_parameters": trained.trainable,
        "share_of_base": trained.trainable / base.parameters,
        "file_bytes": len(file) if file else None,
        "digest": digest(file) if file else None,
    }
    return Outcome(manifest, file, validation, test, report)


def _result(manifest: Manifest, validation: Measured, test: Measured | None) -> dict[str, Any]:
    """The report's part about what came of it."""
    measured = {"validation": validation, "test": test}
    return {
        "task": manifest.task,
        "kind": manifest.kind,
        "labels": manifest.labels,
        "metric": validation.metric,
        **{name: one.value if one else None for name, one in measured.items()},
        "measured": {name: one.facts() for name, one in measured.items() if one},
        "calibration": manifest.calibration.model_dump(),
    }


def _way(plan: Plan, recipe: Recipe, trained: Trained, tried: Sequence[Try]) -> dict[str, Any]:
    """The report's part about how it was made."""
    return {
        "method": "full" if recipe.full else plan.method.model_dump(mode="json"),
        "recipe": {name: getattr(recipe, name) for name in TOLD} | {"dtype": str(recipe.dtype).removeprefix("torch.")},
        "best_epoch": trained.epoch,
        "curve": trained.curve,
        "losses": trained.losses,
        "tried": [
            {"seed": one.recipe.seed, "learning_rate": one.recipe.learning_rate, "validation": one.trained.value}
            for one in tried
        ],
    }
