"""Inputs of one call in parts that a service takes, and what it says of a part as if there were none."""

import re
from collections.abc import Iterator, Sequence
from hashlib import sha256
from json import dumps
from typing import Any, TypeVar

from service.errors import BadInput
from service.settings import Settings

# What a service takes by default; one that takes less says so, and the part is halved.
MOST_INPUTS: int = Settings.model_fields["max_inputs"].default
MOST_BYTES: int = Settings.model_fields["max_body_bytes"].default - 65_536  # room for what stands around the inputs

T = TypeVar("T")


def encode(value: Any) -> bytes:
    """As JSON.

    Raises:
        BadInput: it has a lone surrogate, or a number that is none.
    """
    try:
        return dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        raise BadInput(f"this cannot be sent as JSON: {error}") from error


def parted(inputs: Sequence[T], most_inputs: int = MOST_INPUTS, most_bytes: int = MOST_BYTES) -> Iterator[Sequence[T]]:
    """The inputs in order, in parts of so many and so many bytes at most; an input that is larger stands alone."""
    first = held = 0
    for number, one in enumerate(inputs):
        size = len(encode(one)) + 1
        if number > first and (number - first == most_inputs or held + size > most_bytes):
            yield inputs[first:number]
            first, held = number, 0
        held += size
    yield inputs[first:]


def key_of(inputs: Sequence[Any]) -> str:
    """What all parts of one call have in common, so that a release sends them one way."""
    return sha256(encode(list(inputs))).hexdigest()


def placed(detail: str, before: int) -> str:
    """A part's "inputs[3]: …" with the place in the whole, `before` inputs having gone in other parts."""
    return re.sub(r"^inputs\[(\d+)\]", lambda found: f"inputs[{int(found[1]) + before}]", detail)
