"""What happened to a task. The log is part of the task's state, so that each change and its entry are one write; when
it has grown, its beginning goes into files of its own."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.registry.proof import Proof
from service.registry.release import Candidate

PART = 100  # entries in a file of their own; the state holds fewer than twice as many

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
