"""The manifest as far as it is known before the training; what cannot be is no news for after it."""

from collections.abc import Sequence
from datetime import date

import numpy as np

from service.adapters.manifest import Calibration, HeadSettings, Manifest, TokenizerSettings, Trained
from service.engine.base_model import BaseModel
from service.errors import BadData
from service.tasks import KINDS
from service.training.data import Example
from service.training.labels import names_of
from service.training.plan import Data, Plan, tokens_read


def draft(base: BaseModel, plan: Plan, data: Data) -> Manifest:
    """What is not known yet, the figures and the calibration, is left at nothing.

    Raises:
        BadData: what was asked for does not fit the base or the data.
    """
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
        trained=Trained(
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
