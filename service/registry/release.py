"""A gradual release: a candidate beside a task's active version, and which requests fall to it. Pure."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from json import dumps
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

Mode = Literal["shadow", "share"]
Role = Literal["active", "candidate"]

PLACES = 2**53  # that a key may fall to; what a float can tell apart below 1


class Candidate(BaseModel):
    """The version that is tried out; part of the task's state.

    In either mode, a request that falls to the candidate is run by both versions; the mode says which one answers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = Field(ge=1)
    mode: Mode = Field(description="shadow: the active version answers all; share: the candidate answers its share")
    share: float = Field(ge=0, le=1, description="of the requests: those that fall to the candidate")

    def takes(self, task: str, key: str) -> bool:
        """Whether a request with this key falls to the candidate. A larger share takes all that a smaller one took."""
        return place(task, self.version, key) < self.share


class Standing(NamedTuple):
    """A release under way: the version that is active, and what stands beside it."""

    active: int
    candidate: Candidate


def place(task: str, version: int, key: str) -> float:
    """Where a key falls in [0, 1): evenly spread, always the same, and elsewhere in the release of another version."""
    hashed = sha256(f"{task}\n{version}\n{key}".encode()).digest()
    return int.from_bytes(hashed[:8]) % PLACES / PLACES


def key_of(inputs: Iterable[Sequence[str]]) -> str:
    """The key of a request that brings none: the same inputs have the same one."""
    return dumps([list(one) for one in inputs])
