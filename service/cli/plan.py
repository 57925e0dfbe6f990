"""From what `rootstock train` was told to a plan; what cannot be is refused here, before anything is loaded."""

import re
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from service.adapters.file import MAX_HEADER_BYTES
from service.adapters.manifest import MAX_GOLDEN, TASK_NAME, TASK_NAME_WORDS, Input
from service.errors import BadData

# Fields of the methods, and the options that set them.
METHOD_OPTIONS = {
    "bottleneck": "--bottleneck",
    "activation": "--activation",
    "init_scale": "--init-scale",
    "rank": "--rank",
    "alpha": "--alpha",
    "targets": "--target",
    "length": "--length",
    "layers": "--layer",
    "norms": "--norms",
}


class Finite(click.FloatRange):
    """A number in bounds; click lets through what is none, as it is neither below nor above them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def make_plan(training: Path, options: dict[str, Any]) -> Any:
    """The plan for `training.run`.

    Raises:
        BadData: no task may have the name, or the golden examples cannot be kept.
        click.UsageError: an option does not go with the method.
    """
    from service.training.columns import Columns
    from service.training.plan import Plan
    from service.training.recipe import RECIPES

    check_task(options["task"])
    if options["method"] == "full" and options["dtype"] == "int16":
        raise click.UsageError("--dtype int16 is for a base that stays as it is; full takes float32 or bfloat16")
    given = {name: options[name] for name in ("epochs", "batch_size", "patience") if options[name] is not None}
    recipe = replace(RECIPES[way(options)], seed=options["seeds"][0], **given)
    taken = (
        "task", "kind", "validation", "test", "metric", "seeds", "learning_rates", "max_length", "pooling", "source",
        "description", "licence", "resume",
    )  # fmt: skip
    return Plan(
        method=_method(options),
        recipe=recipe,
        training=training,
        columns=Columns(options["text"], options["pair"], options["label"]),
        golden=_golden(options["golden"]) if options["golden"] else (),
        checkpoints=options["out"],
        **{name: options[name] for name in taken},
    )


def check_task(name: str) -> None:
    from service.engine.bank import BARE_TASK

    if not re.fullmatch(TASK_NAME, name):
        raise BadData(f"--task: {name!r} is no task name: {TASK_NAME_WORDS}")
    if name == BARE_TASK:
        raise BadData(f"--task: {name} is answered by the bare base and takes no adapter; choose another name")


def way(options: dict[str, Any]) -> str:
    """The recipe's name."""
    return "norms" if options["method"] == "head" and options["norms"] else options["method"]


def _method(options: dict[str, Any]) -> Any:
    """The method with what was said of it; an option that it does not have is an error."""
    from service.adapters.methods import METHODS

    name = "head" if options["method"] == "full" else options["method"]
    said = {option: options[option] for option in METHOD_OPTIONS if options[option] not in (None, ())}
    fields = METHODS[name].model_fields.items() if options["method"] != "full" else ()
    known = {field for field, facts in fields if facts.annotation is not type(None)}
    unknown = [METHOD_OPTIONS[option] for option in said if option not in known]
    if unknown:
        raise click.UsageError(f"method {options['method']} has no {', '.join(unknown)}")
    if name == "head" and "layers" in said and not options["norms"]:
        raise click.UsageError("method head without --norms has no --layer")
    return METHODS[name](**said)


def _golden(path: Path) -> list[Input]:
    if path.stat().st_size > MAX_HEADER_BYTES:
        raise BadData(f"{path}: larger than an adapter's header, which keeps them, may be: {MAX_HEADER_BYTES:,} bytes")
    lines = path.read_bytes().splitlines()
    if not 0 < len(lines) <= MAX_GOLDEN:
        raise BadData(f"{path}: {len(lines):,} inputs; a file keeps 1 to {MAX_GOLDEN} as golden examples")
    inputs = []
    for number, line in enumerate(lines, start=1):
        try:
            inputs.append(Input.model_validate_json(line))
        except ValidationError as error:
            raise BadData(f"{path}:{number}: {error.errors()[0]['msg']}") from error
    return inputs
