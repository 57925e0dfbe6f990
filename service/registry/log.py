"""What happened to a task. The log is part of the task's state, so that each change and its entry are one write."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.registry.proof import Proof
from service.registry.release import Candidate

Did = Literal["upload", "activate", "delete", "retire", "nominate", "promote", "abandon"]


class Entry(BaseModel):
    """One change; never altered once it is there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: datetime = Field(description="when, UTC")
    by: str = Field(description="who: the caller's address; - where it is not known")
    did: Did
    version: int | None = Field(description="which one; null: the task as a whole")
    digest: str | None = Field(description="of that version")
    before: int | None = Field(description="the active version until then")
    after: int | None = Field(description="and from then on")
    candidate: Candidate | None = Field(default=None, description="the candidate from then on")
    proof: Proof | None = Field(default=None, description="what was seen when the version was proved for this")


Log = tuple[Entry, ...]


def deleted(log: Sequence[Entry]) -> set[int]:
    """Versions that are gone, whatever a deletion that was cut short has left of them."""
    return {entry.version for entry in log if entry.did == "delete" and entry.version is not None}


def proofs(log: Sequence[Entry]) -> dict[tuple[int | None, str | None], Proof]:
    """What has been proved, by number and digest."""
    return {(entry.version, entry.digest): entry.proof for entry in log if entry.proof is not None}
