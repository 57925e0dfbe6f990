"""A row of the table: one family of metrics, and how it is counted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar, overload

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.metrics import MetricWrapperBase

M = TypeVar("M", bound=MetricWrapperBase, covariant=True)


class Families(Protocol):
    """What has families by their names."""

    families: dict[str, Any]


@dataclass(frozen=True)
class Row(Generic[M]):
    """One family. On the table's class it is this description; on an object of it, the family that counts.

    Names follow Prometheus: a base unit at the end (`_seconds`, `_bytes`), and `_total` for what only grows.
    """

    section: str
    family: type[M]
    name: str
    help: str  # one sentence, or two
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def kind(self) -> str:
        """counter, gauge, histogram or info."""
        return self.family.__name__.lower()

    @property
    def exposed(self) -> str:
        """The family's name in the exposition."""
        return f"{self.name}_info" if self.kind == "info" else self.name

    def make(self, registry: CollectorRegistry) -> M:
        options: dict[str, Any] = {"buckets": self.buckets} if self.buckets else {}
        return self.family(self.name, self.help, self.labels, registry=registry, **options)

    @overload
    def __get__(self, holder: None, owner: type) -> Self: ...
    @overload
    def __get__(self, holder: Families, owner: type) -> M: ...
    def __get__(self, holder: Families | None, owner: type) -> "Self | M":
        if holder is None:
            return self
        family: M = holder.families[self.name]
        return family


@dataclass(frozen=True)
class Section:
    """A heading in the documentation and the dashboard, and the rows made under it."""

    title: str

    def counter(self, name: str, help: str, *labels: str) -> Row[Counter]:
        return Row(self.title, Counter, name, help, labels)

    def gauge(self, name: str, help: str, *labels: str) -> Row[Gauge]:
        return Row(self.title, Gauge, name, help, labels)

    def histogram(self, name: str, help: str, *labels: str, buckets: Sequence[float]) -> Row[Histogram]:
        return Row(self.title, Histogram, name, help, labels, tuple(buckets))

    def info(self, name: str, help: str) -> Row[Info]:
        return Row(self.title, Info, name, help)
