"""Tasks and their versions, as the store's files tell them."""

from dataclasses import dataclass, field, replace

from service.adapters.file import Header
from service.adapters.manifest import Manifest


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
    last: int = 0  # the highest number ever given; numbers are never used twice

    def having(self, version: Version) -> "Task":
        """The same with this version, new or changed."""
        return replace(self, versions={**self.versions, version.number: version})
