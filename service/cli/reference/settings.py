"""The table of settings as a page."""

from pathlib import Path
from typing import Any, get_args

from annotated_types import Ge, Gt, Le

from service.settings import Settings, environment_name, flag_name

HEAD = """\
# Settings

Every setting of `rootstock serve`: a flag, or an environment variable, which the flag beats. `make docs` writes this
page from the table in `service/settings.py`.

| flag | variable | value | default | what it is |
|---|---|---|---|---|
"""
TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}


def page() -> str:
    """docs/settings.md."""
    return HEAD + "".join(
        f"| `{flag_name(name)}` | `{environment_name(name)}` | {_values(field.annotation, field.metadata)} "
        f"| {f'`{field.default}`' if field.default != '' else 'none'} | {field.description} |\n"
        for name, field in Settings.model_fields.items()
    )


def _values(annotation: Any, limits: list[Any]) -> str:
    """What may be written: one of a few words, or a value of a type within limits."""
    if choices := get_args(annotation):
        return ", ".join(f"`{choice}`" for choice in choices)
    return ", ".join([TYPES[annotation], *(_words(limit) for limit in limits)])


def _words(limit: Any) -> str:
    match limit:
        case Ge(ge=value):
            return f"{value} or more"
        case Gt(gt=value):
            return f"more than {value}"
        case Le(le=value):
            return f"{value} at most"
    raise TypeError(f"no words for the limit {limit!r}")
