"""One training from data files to a finished adapter file, with what is known about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from hashlib import sha256
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch

from service.adapters.file import digest, write_adapter
from service.adapters.manifest import (
    MAX_OUTPUTS,
    Calibration,
    Golden,
    HeadSettings,
    Input,
    KindName,
    Manifest,
    TokenizerSettings,
)
from service.adapters.manifest import Trained as TrainedFacts
from service.adapters.methods import AnyMethod
from service.engine.bank import load_resident
from service.engine.base_model import BaseModel
from service.engine.engine import Engine, Row
from service.errors import BadData, Diverged
from service.tasks import KINDS, kind_of, read_for
from service.tasks.reading import Given
from service.training.checkpoint import Checkpoint
from service.training.columns import Columns
from service.training.data import Example, read_examples
from service.training.labels import check_labels, doubts, infer_kind, names_of
from service.training.measure import Measured, measure_answers
from service.training.recipe import Recipe
from service.training.sets import Set, Unfit, count_cut, prepare
from service.training.splitting import set_aside
from service.training.trainer import (
    Progress,
    Trained,
    decoded,
    finished,
    raw_outputs,
    train,
)
from service.training.workers import Workers

VALIDATION_SHARE = 0.1
GOLDEN = 4  # examples kept in the file


@dataclass(frozen=True)
class Plan:
    """What to train: everything `rootstock train` is told."""

    task: str
    method: AnyMethod
    recipe: Recipe
    training: Path
    kind: KindName | None = None  # inferred from the labels when left out
    validation: Path | None = None
    test: Path | None = None
    columns: Columns = field(default_factory=Columns)
    metric: str | None = None
    seeds: Sequence[int] = ()  # the recipe's alone when left out
    learning_rates: Sequence[float] = ()  # likewise
    max_length: int | None = None  # the kind's own when left out
    pooling: Literal["mean", "first"] = "mean"
    golden: Sequence[Input] = ()
    source: str = ""
    description: str = ""
    licence: str = ""
    checkpoints: Path | None = None  # folder; where a training that is cut leaves what it has
    resume: bool = False  # go on from there; otherwise begin anew


@dataclass(frozen=True)
class Outcome:
    """A finished training. `file` is None where the base itself was trained: that is never served."""

    manifest: Manifest
    file: bytes | None
    validation: Measured
    test: Measured | None
    report: dict[str, Any]


@dataclass(frozen=True)
class Data:
    """The examples of a plan, and what they are for."""

    kind: KindName
    training: list[Example]
    validation: list[Example]
    test: list[Example]
    doubts: Sequence[str] = ()  # what may be a mistake in the training file


Watch = Callable[[int, int, Progress], None]  # (run, runs, progress)


def read_data(plan: Plan) -> Data:
    """Reads the plan's files; validation is set aside from training where no file is named.

    Raises:
        BadData: a file is wrong, or holds nothing to learn from.
    """
    training = read_examples(plan.training, plan.columns, plan.kind)
    kind = plan.kind or infer_kind(training, plan.training)
    if kind == "multilabel" and plan.kind is None:
        training = read_examples(plan.training, plan.columns, kind)
    check_labels(kind, training, plan.training)
    found = list(doubts(kind, training))
    if plan.validation is not None:
        validation = read_examples(plan.validation, plan.columns, kind)
    else:
        training, validation = set_aside(training, kind, VALIDATION_SHARE, plan.recipe.seed)
        if not validation:
            raise BadData(
                f"{plan.training}: too few rows to train on some and validate on others: a label's only rows must be "
                f"trained on, and {'questions on one passage' if kind == 'answer' else 'equal inputs'} stay together; "
                "name other rows with --validation"
            )
    test = read_examples(plan.test, plan.columns, kind) if plan.test else []
    return Data(kind, training, validation, test, found)


def tokens_read(base: BaseModel, plan: Plan, kind: KindName) -> int:
    """How many tokens of an input the task will read at once.

    Raises:
        BadData: the base does not read as many.
    """
    if plan.max_length is None:
        return min(KINDS[kind].max_length, base.max_length)
    if plan.max_length > base.max_length:
        raise BadData(f"--max-length {plan.max_length} is too long: {base.name} reads {base.max_length} tokens at most")
    return plan.max_length


def count_cut_rows(base: BaseModel, plan: Plan, data: Data) -> int:
    """How many training rows are longer than what is read, and so are cut."""
    return count_cut(base, KINDS[data.kind], data.training, tokens_read(base, plan, data.kind))


def run(base: BaseModel, plan: Plan, data: Data, watch: Watch = lambda run, runs, progress: None) -> Outcome:
    """Trains, measures and packs. Of several seeds or learning rates, the best on validation is kept.

    Raises:
        BadData: the data hold nothing to learn from.
        Diverged: no recipe came to anything.
    """
    started = perf_counter()
    manifest = _manifest(base, plan, data)
    metric = plan.metric or KINDS[data.kind].metrics[0]
    training = _prepare(base, manifest, data.training, plan.training)
    validation = _prepare(base, manifest, data.validation, plan.validation or plan.training)
    test = _prepare(base, manifest, data.test, plan.test or plan.training)
    recipes = [
        replace(plan.recipe, seed=seed, learning_rate=rate)
        for rate, seed in product(plan.learning_rates or [plan.recipe.learning_rate], plan.seeds or [plan.recipe.seed])
    ]
    tried: list[tuple[Recipe, Trained]] = []
    for number, recipe in enumerate(recipes, start=1):
        checkpoint = _checkpoint(base, plan, manifest, recipe, data)
        if checkpoint is not None and not plan.resume:
            checkpoint.remove()

        def tell(progress: Progress, number: int = number) -> None:
            watch(number, len(recipes), progress)

        try:
            tried.append((recipe, train(base, manifest, training, validation, recipe, metric, tell, checkpoint)))
        except Diverged:
            if number == len(recipes) and not tried:  # of several rates, one too many only loses
                raise
    recipe, trained = max(tried, key=lambda one: one[1].worth)
    outcome = _finish(base, plan, manifest, recipe, trained, (training, validation, test), metric)
    outcome.report.update(_costs(base, recipe, tried, len(data.training), outcome.file, perf_counter() - started))
    for recipe, _ in tried:
        if checkpoint := _checkpoint(base, plan, manifest, recipe, data):
            checkpoint.remove()
    return outcome


def _prepare(base: BaseModel, manifest: Manifest, examples: Sequence[Example], path: Path) -> Set:
    try:
        return prepare(base, manifest, examples)
    except Unfit as error:
        raise error.of(path) from error


def _manifest(base: BaseModel, plan: Plan, data: Data) -> Manifest:
    """All that is known before the training; a field that cannot be is no news for after it."""
    kind, pair = KINDS[data.kind], data.training[0].text_pair is not None
    if problem := plan.method.check(base.dims):
        raise BadData(problem)
    for number, given in enumerate(plan.golden, start=1):
        if (given.text_pair is not None) != pair:
            raise BadData(f"golden example {number}: the task reads {'two texts' if pair else 'one text'}")
    if plan.metric is not None and plan.metric not in kind.metrics:
        raise BadData(f"kind {data.kind} is not measured by {plan.metric}; choose one of {', '.join(kind.metrics)}")
    return Manifest(
        task=plan.task,
        kind=data.kind,
        method=plan.method,
        labels=_labels(data),
        base=base.identity,
        tokenizer=TokenizerSettings(max_length=tokens_read(base, plan, data.kind)),
        head=HeadSettings(pooling=plan.pooling, pair=pair),
        calibration=_units(plan, data.training) if data.kind == "regression" else Calibration(),
        trained=TrainedFacts(
            metric=plan.metric or kind.metrics[0],
            value=0.0,  # not measured yet
            rows=len(data.training),
            seed=plan.recipe.seed,
            date=date.today(),
            source=plan.source or plan.training.name,
        ),
        description=plan.description,
        licence=plan.licence,
    )


def _labels(data: Data) -> list[str]:
    """The labels that occur in training, in the order of the alphabet; none for kinds without."""
    if data.kind in ("regression", "answer"):
        return []
    return sorted({name for example in data.training for name in names_of(example.label)})


def _units(plan: Plan, training: Sequence[Example]) -> Calibration:
    """The data's mean and deviation, so that the head may work in standard units."""
    values = np.array([float(str(example.label)) for example in training])
    if values.std() == 0:
        raise BadData(f"{plan.training}: the numbers to train on are all the same; name others with --validation")
    return Calibration(mean=float(values.mean()), deviation=float(values.std()))


def _checkpoint(base: BaseModel, plan: Plan, manifest: Manifest, recipe: Recipe, data: Data) -> Checkpoint | None:
    if plan.checkpoints is None:
        return None
    assert manifest.trained is not None
    settled = manifest.model_copy(update={"trained": None, "description": "", "licence": ""})
    facts = (settled, manifest.trained.metric, recipe, data.training, data.validation)
    return Checkpoint(
        plan.checkpoints / f"{plan.task}-{recipe.seed}-{recipe.learning_rate:g}.checkpoint",
        sha256(repr(facts).encode()).hexdigest(),
    )


def _finish(
    base: BaseModel,
    plan: Plan,
    manifest: Manifest,
    recipe: Recipe,
    trained: Trained,
    sets: tuple[Set, Set, Set],
    metric: str,
) -> Outcome:
    """Calibrates on the validation set, measures what will be stored, and packs the file."""
    training, validation, test = sets
    # The file holds half precision, so that is what is measured.
    trained = replace(trained, tensors={name: tensor.half().float() for name, tensor in trained.tensors.items()})
    model = finished(base, manifest, trained)
    with Workers() as workers:
        raw, raw_test = raw_outputs(model, validation, workers), raw_outputs(model, test, workers)
    calibration = kind_of(manifest).calibrate(manifest, raw, validation.labelled, metric)
    manifest = manifest.model_copy(update={"calibration": calibration})
    on_validation = measure_answers(manifest, decoded(manifest, validation, raw), validation.labels, metric)
    on_test = None
    if test.readings:
        on_test = measure_answers(manifest, decoded(manifest, test, raw_test), test.labels, metric)
    assert manifest.trained is not None
    facts = manifest.trained.model_copy(
        update={"value": on_validation.value, "seed": recipe.seed, "test_value": on_test.value if on_test else None}
    )
    manifest = manifest.model_copy(update={"trained": facts})
    golden = plan.golden or [
        Input(text=given.text, text_pair=given.text_pair) for given, _ in validation.readings[:GOLDEN]
    ]
    file = None if recipe.full else _file(base, manifest, trained, golden)
    report = {
        "task": plan.task,
        "kind": manifest.kind,
        "method": "full" if recipe.full else plan.method.model_dump(mode="json"),
        "labels": manifest.labels,
        "metric": metric,
        "validation": on_validation.value,
        "test": on_test.value if on_test else None,
        "measured": {
            name: one.facts() for name, one in (("validation", on_validation), ("test", on_test)) if one is not None
        },
        "calibration": calibration.model_dump(),
        "best_epoch": trained.epoch,
        "curve": trained.curve,
        "losses": trained.losses,
        "rows": len(training.readings),
    }
    return Outcome(manifest, file, on_validation, on_test, report)


def _file(base: BaseModel, manifest: Manifest, trained: Trained, golden: Sequence[Input]) -> bytes:
    """The adapter file, with golden outputs of the very weights it holds: rounded, and run by the serving engine."""
    base = replace(base, weights=base.weights.to(torch.float32))
    draft = load_resident(base, write_adapter(manifest, trained.tensors), version=1)
    examples = []
    for given in golden:
        reading = read_for(manifest, base.tokenizer, [Given(given.text, given.text_pair)])[0]
        raw = Engine(base).run([Row(row, draft) for row in reading.rows])
        outputs = draft.kind.decode(manifest, reading, raw).outputs
        if len(outputs) <= MAX_OUTPUTS:
            examples.append(Golden(input=given, outputs=[round(float(value), 5) for value in outputs]))
    return write_adapter(manifest.model_copy(update={"golden": examples}), trained.tensors)


def _costs(
    base: BaseModel,
    recipe: Recipe,
    tried: Sequence[tuple[Recipe, Trained]],
    rows: int,
    file: bytes | None,
    seconds: float,
) -> dict[str, Any]:
    """What the training took, and what came of each run."""
    trained = tried[0][1]
    epochs = sum(len(one.curve) for _, one in tried)
    return {
        "trained_parameters": trained.trainable,
        "share_of_base": trained.trainable / base.parameters,
        "recipe": {
            "epochs": recipe.epochs,
            "learning_rate": recipe.learning_rate,
            "batch_size": recipe.batch_size,
            "dropout": recipe.dropout,
            "averaging": recipe.averaging,
            "beta2": recipe.beta2,
            "seed": recipe.seed,
            "dtype": str(recipe.dtype).removeprefix("torch."),
        },
        "tried": [
            {"seed": one.seed, "learning_rate": one.learning_rate, "validation": result.value} for one, result in tried
        ],
        "seconds": round(seconds, 1),
        "examples_per_second": round(rows * epochs / seconds, 1),
        "file_bytes": len(file) if file else None,
        "digest": digest(file) if file else None,
    }
