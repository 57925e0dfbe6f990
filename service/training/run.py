"""One training from data files to a finished adapter file, with what is known about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch

from service.adapters.file import digest, write_adapter
from service.adapters.manifest import (
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
from service.engine.tokens import tokenize
from service.errors import BadData
from service.tasks import KINDS
from service.training.data import Columns, Example, read_examples, split
from service.training.trainer import Progress, Recipe, Trained, prepare, score, train

VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class Plan:
    """What to train: everything `rootstock train` is told."""

    task: str
    kind: KindName
    method: AnyMethod
    recipe: Recipe
    training: Path
    validation: Path | None = None
    test: Path | None = None
    columns: Columns = field(default_factory=Columns)
    max_length: int = 128
    pooling: Literal["mean", "first"] = "mean"
    golden: Sequence[Input] = ()
    source: str = ""
    description: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Outcome:
    """A finished training. `file` is None where the base itself was trained: that is never served."""

    manifest: Manifest
    file: bytes | None
    report: dict[str, Any]


def run(base: BaseModel, plan: Plan, watch: Callable[[Progress], None] = lambda progress: None) -> Outcome:
    """Reads, trains, measures and packs.

    Raises:
        BadData: a data file is wrong, or holds nothing to learn from.
    """
    started = perf_counter()
    training, validation, test = _read(plan)
    manifest = _manifest(base, plan, training)
    sets = []
    for examples, path in (
        (training, plan.training),
        (validation, plan.validation or plan.training),
        (test, plan.test),
    ):
        try:
            sets.append(prepare(base, manifest, examples))
        except ValueError as error:
            raise BadData(f"{path}: {error}") from error
    trained = train(base, manifest, sets[0], sets[1], plan.recipe, watch)
    # Measured as stored: the file holds half precision.
    trained = replace(trained, tensors={name: tensor.half().float() for name, tensor in trained.tensors.items()})
    test_value = score(base, manifest, trained, sets[2]) if test else None
    assert manifest.trained is not None
    facts = manifest.trained.model_copy(update={"value": trained.value, "test_value": test_value})
    manifest = manifest.model_copy(update={"trained": facts})
    file = None if plan.recipe.full else _file(base, manifest, trained, plan.golden or _first_inputs(validation))
    return Outcome(manifest, file, _report(base, plan, manifest, trained, file, perf_counter() - started))


def _read(plan: Plan) -> tuple[list[Example], list[Example], list[Example]]:
    """(training, validation, test) examples; validation is set aside from training where no file is named."""
    training = read_examples(plan.training, plan.columns)
    if plan.validation is not None:
        validation = read_examples(plan.validation, plan.columns)
    else:
        training, validation = split(
            training, VALIDATION_SHARE, plan.recipe.seed, stratify=plan.kind == "classification"
        )
    if not training or not validation:
        raise BadData(f"{plan.training}: too few rows to train on some and validate on others")
    test = read_examples(plan.test, plan.columns) if plan.test else []
    return training, validation, test


def _manifest(base: BaseModel, plan: Plan, training: Sequence[Example]) -> Manifest:
    """All that is known before the training; a field that cannot be is no news for after it."""
    labels: list[str] = []
    calibration = Calibration()
    if plan.kind == "classification":
        labels = sorted({example.label for example in training})
        if len(labels) < 2:
            raise BadData(f"{plan.training}: only one label, {labels[0]!r}; classification needs at least two")
    if plan.kind == "regression":
        calibration = _units(plan, training)
    return Manifest(
        task=plan.task,
        kind=plan.kind,
        method=plan.method,
        labels=labels,
        base=base.identity,
        tokenizer=TokenizerSettings(max_length=min(plan.max_length, base.max_length)),
        head=HeadSettings(pooling=plan.pooling, pair=training[0].text_pair is not None),
        calibration=calibration,
        trained=TrainedFacts(
            metric=KINDS[plan.kind].metric,
            value=0.0,  # not measured yet
            rows=len(training),
            seed=plan.recipe.seed,
            date=date.today(),
            source=plan.source or plan.training.name,
        ),
        description=plan.description,
        licence=plan.licence,
    )


def _units(plan: Plan, training: Sequence[Example]) -> Calibration:
    """The data's mean and deviation, so that the head may work in standard units."""
    try:
        values = np.array([float(example.label) for example in training])
    except ValueError as error:
        raise BadData(f"{plan.training}: regression needs numbers: {error}") from error
    if not np.isfinite(values).all() or values.std() == 0:
        raise BadData(f"{plan.training}: regression needs finite numbers that are not all the same")
    return Calibration(mean=float(values.mean()), deviation=float(values.std()))


def _file(base: BaseModel, manifest: Manifest, trained: Trained, golden: Sequence[Input]) -> bytes:
    """The adapter file, with golden outputs of the very weights it holds: rounded, and run by the serving engine."""
    base = replace(base, weights=base.weights.to(torch.float32))
    draft = load_resident(base, write_adapter(manifest, trained.tensors), version=1)
    pairs = [text.text_pair or "" for text in golden] if manifest.head.pair else None
    tokens = tokenize(base.tokenizer, [text.text for text in golden], pairs, manifest.tokenizer.max_length)
    raw = Engine(base).run([Row(row, draft) for row in tokens])
    answers = [draft.kind.decode(manifest, output).outputs for output in raw]
    examples = [
        Golden(input=text, outputs=[round(float(value), 5) for value in answer])
        for text, answer in zip(golden, answers, strict=True)
    ]
    return write_adapter(manifest.model_copy(update={"golden": examples}), trained.tensors)


def _first_inputs(validation: Sequence[Example], count: int = 4) -> list[Input]:
    return [Input(text=example.text, text_pair=example.text_pair) for example in validation[:count]]


def _report(
    base: BaseModel, plan: Plan, manifest: Manifest, trained: Trained, file: bytes | None, seconds: float
) -> dict[str, Any]:
    """What a reader, or a benchmark, wants to know of this training; JSON."""
    facts = manifest.trained
    assert facts is not None
    return {
        "task": plan.task,
        "kind": plan.kind,
        "method": "full" if plan.recipe.full else plan.method.model_dump(mode="json"),
        "metric": facts.metric,
        "validation": facts.value,
        "test": facts.test_value,
        "best_epoch": trained.epoch,
        "curve": trained.curve,
        "trained_parameters": trained.trainable,
        "share_of_base": trained.trainable / base.parameters,
        "rows": facts.rows,
        "recipe": {
            "epochs": plan.recipe.epochs,
            "learning_rate": plan.recipe.learning_rate,
            "batch_size": plan.recipe.batch_size,
            "dropout": plan.recipe.dropout,
            "seed": plan.recipe.seed,
            "dtype": str(plan.recipe.dtype).removeprefix("torch."),
        },
        "seconds": round(seconds, 1),
        "examples_per_second": round(facts.rows * plan.recipe.epochs / seconds, 1),
        "file_bytes": len(file) if file else None,
        "digest": digest(file) if file else None,
    }
