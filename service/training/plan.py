"""What to train, and on what: a plan, and the examples that its files hold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from service.adapters.manifest import Input, KindName
from service.adapters.methods import AnyMethod
from service.engine.base_model import BaseModel
from service.errors import BadData
from service.tasks import KINDS
from service.training.columns import Columns
from service.training.data import Example, read_examples
from service.training.labels import check_labels, doubts, infer_kind
from service.training.recipe import Recipe
from service.training.sets import count_cut
from service.training.splitting import set_aside

VALIDATION_SHARE = 0.1


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
class Data:
    """The examples of a plan, and what they are for."""

    kind: KindName
    training: list[Example]
    validation: list[Example]
    test: list[Example]
    doubts: Sequence[str] = ()  # what may be a mistake in the training file


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
    found += _seen(validation, training, "validation rows are among those trained on")
    found += _seen(test, [*training, *validation], "test rows are among those trained on or chosen by")
    return Data(kind, training, validation, test, found)


def _seen(rows: Sequence[Example], before: Sequence[Example], said: str) -> Iterator[str]:
    """Inputs that stand in both, whatever their labels."""
    known = {example.given for example in before}
    if count := sum(example.given in known for example in rows):
        yield f"{count:,} of {len(rows):,} {said}: figures on them are too good"


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
