"""Tasks and their versions, as the store's files tell them."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import NamedTuple

from service.adapters.file import Header
from service.adapters.manifest import Manifest
from service.errors import Conflict, UnknownCandidate
from service.registry.log import Did, Entry, Log
from service.registry.proof import Proof
from service.registry.release import Candidate, Standing
from service.registry.store import Given, Kept, State


@dataclass(frozen=True)
class Version:
    """One file of the store. `header` is None where the file is refused, `problem` says why.

    Of a version that is not active, the tensors are judged when it is asked for.
    """

    number: int
    digest: str
    bytes: int
    header: Header | None
    parameters: int = 0  # |v|
    tag: str = ""  # of the file that was judged (`store.Content`)
    problem: str | None = None
    proof: Proof | None = None  # None: it was found in the store, and is proved when it is to be activated
    judged: bool = False  # all of it was, here or where it was uploaded; not only its header

    @property
    def manifest(self) -> Manifest | None:
        return self.header.manifest if self.header is not None else None

    def refused(self, problem: str) -> "Version":
        return replace(self, header=None, problem=problem)


class Behind(NamedTuple):
    """Why another version answers here than the store's."""

    version: int | None  # the one that does
    reason: str


@dataclass(frozen=True)
class Task:
    """Immutable: readers take the one that stands, a change puts another in its place."""

    name: str
    versions: dict[int, Version] = field(default_factory=dict)
    active: int | None = None  # as the store has it
    candidate: Candidate | None = None  # beside another version that is active
    last: int = 0  # the highest number ever given; numbers are never used twice
    log: Log = ()  # the latest entries
    earlier: int = 0  # entries before those, which are in files of their own
    kept: Kept | None = None  # the state that says this; None: the store has none
    behind: Behind | None = None  # None: the active version answers

    @property
    def serving(self) -> int | None:
        """The version that answers here."""
        return self.behind.version if self.behind is not None else self.active

    @property
    def state(self) -> State:
        """What the store is to remember."""
        versions = {number: Given(digest=one.digest, proof=one.proof) for number, one in self.versions.items()}
        return State(
            active=self.active,
            candidate=self.candidate,
            last=self.last,
            versions=versions,
            earlier=self.earlier,
            log=self.log,
        )

    @property
    def named(self) -> Collection[int]:
        """The versions that the state in the store names; others are files that it does not know of yet."""
        state = self.kept.state if self.kept is not None else None
        return state.versions or () if isinstance(state, State) else ()

    def having(self, version: Version) -> "Task":
        """The same with this version, new or changed."""
        return replace(self, versions={**self.versions, version.number: version})

    def without(self, *numbers: int) -> "Task":
        """The same without these versions."""
        return replace(self, versions={kept: one for kept, one in self.versions.items() if kept not in numbers})

    @property
    def standing(self) -> Standing | None:
        """The release under way, as it is answered here."""
        if self.candidate is None or self.serving in (None, self.candidate.version):
            return None
        return Standing(self.serving, self.candidate)

    def trying(self) -> Candidate:
        """
        Raises:
            UnknownCandidate
        """
        if self.candidate is None:
            raise UnknownCandidate(f"task {self.name} has no candidate")
        return self.candidate

    def nominated(self, version: Version, candidate: Candidate) -> "Task":
        """The same with this version as the candidate.

        Raises:
            Conflict: it is the active one, another one is the candidate, or it is of another kind.
        """
        if version.number in (self.active, self.serving):
            raise Conflict(f"version {version.number} is the active one of task {self.name} already")
        if self.candidate is not None and self.candidate.version != version.number:
            raise Conflict(
                f"version {self.candidate.version} is the candidate of task {self.name}; promote or abandon it first"
            )
        if self.active is not None:
            _check_alike(self.name, self.versions[self.active], version)
        return replace(self.having(version), candidate=candidate)

    def activated(self, version: Version) -> "Task":
        """The same with this version active. A candidate stays, unless it is this one.

        Raises:
            Conflict: the candidate that stays is of another kind.
        """
        candidate = self.candidate
        if candidate is not None and candidate.version == version.number:
            candidate = None
        if candidate is not None:
            _check_alike(self.name, version, self.versions[candidate.version])
        return replace(self.having(version), active=version.number, candidate=candidate, behind=None)

    def known(self, content: str) -> Version | None:
        """The version that has this digest, and can be served."""
        good = (version for version in self.versions.values() if version.problem is None)
        return next((version for version in good if version.digest == content), None)

    def has_logged(self, did: Did, number: int) -> bool:
        """Whether the latest entries tell this of a version."""
        return any(entry.did == did and entry.version == number for entry in self.log)

    def logged(self, did: Did, by: str, before: int | None, version: Version | None = None) -> "Task":
        """The same with one more entry in its log; `before` was active until now."""
        entry = Entry(
            at=datetime.now(UTC),
            by=by,
            did=did,
            version=version.number if version else None,
            digest=version.digest if version else None,
            before=before,
            after=self.active,
            candidate=self.candidate,
            proof=version.proof if version and did != "delete" else None,
        )
        return replace(self, log=(*self.log, entry))


def _check_alike(task: str, active: Version, candidate: Version) -> None:
    """
    Raises:
        Conflict: what one of them reads and answers, the other does not.
    """
    if active.manifest is None or candidate.manifest is None:
        return  # a file that is refused answers nobody
    forms = [
        f"{'pairs of texts' if one.head.pair else 'a text'} for kind {one.kind}"
        for one in (active.manifest, candidate.manifest)
    ]
    if forms[0] != forms[1]:
        raise Conflict(
            f"version {candidate.number} of task {task} reads {forms[1]}, version {active.number} {forms[0]}: neither "
            "can be the other's candidate"
        )
