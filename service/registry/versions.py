"""Tasks and their versions, as the store's files tell them."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from service.adapters.file import Header
from service.adapters.manifest import Manifest
from service.errors import Conflict
from service.registry.log import Did, Entry, Log
from service.registry.proof import Proof
from service.registry.release import Candidate, Standing


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

    @property
    def manifest(self) -> Manifest | None:
        return self.header.manifest if self.header is not None else None

    def refused(self, problem: str) -> "Version":
        return replace(self, header=None, problem=problem)


@dataclass(frozen=True)
class Task:
    """Immutable: readers take the one that stands, a change puts another in its place."""

    name: str
    versions: dict[int, Version] = field(default_factory=dict)
    active: int | None = None
    candidate: Candidate | None = None  # only where there is an active version
    last: int = 0  # the highest number ever given; numbers are never used twice
    log: Log = ()

    def having(self, version: Version) -> "Task":
        """The same with this version, new or changed."""
        return replace(self, versions={**self.versions, version.number: version})

    def without(self, *numbers: int) -> "Task":
        """The same without these versions."""
        return replace(self, versions={kept: one for kept, one in self.versions.items() if kept not in numbers})

    @property
    def standing(self) -> Standing | None:
        """The release under way, if there is one."""
        if self.active is None or self.candidate is None:
            return None
        return Standing(self.active, self.candidate)

    def activated(self, version: Version) -> "Task":
        """The same with this version active. A candidate stays, unless it is this one.

        Raises:
            Conflict: it is unlike the candidate that stays.
        """
        candidate = self.candidate
        if candidate is not None and candidate.version == version.number:
            candidate = None
        if candidate is not None:
            check_alike(self.name, version, self.versions[candidate.version])
        return replace(self.having(version), active=version.number, candidate=candidate)

    def known(self, content: str) -> Version | None:
        """The version that has this digest, and can be served."""
        good = (version for version in self.versions.values() if version.problem is None)
        return next((version for version in good if version.digest == content), None)

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


def check_alike(task: str, active: Version, candidate: Version) -> None:
    """
    Raises:
        Conflict: what one of them reads and answers, the other does not.
    """
    if (
        active.manifest is None or candidate.manifest is None
    ):  # it is not served, so callers of the other see none of it
        return
    forms = [
        f"{'pairs of texts' if one.head.pair else 'a text'} for kind {one.kind}"
        for one in (active.manifest, candidate.manifest)
    ]
    if forms[0] != forms[1]:
        raise Conflict(
            f"version {candidate.number} of task {task} reads {forms[1]}, version {active.number} {forms[0]}: neither "
            "can be the other's candidate"
        )
