"""Adapters in memory: what is resident, and what it costs."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from weakref import WeakKeyDictionary, ref

from service.adapters.manifest import HeadSettings, Manifest, TokenizerSettings
from service.adapters.methods import BARE, Head, Tensors
from service.engine.base_model import BaseModel
from service.engine.layout import AnyAdaptation
from service.engine.sieve import Sieve
from service.tasks import Kind, kind_of

BARE_TASK = "embedding"  # the task that the base answers without an adapter


@dataclass(frozen=True, eq=False)
class Resident:
    """One version of a task, ready to run.

    A row holds its Resident, so it is answered by the version it was admitted with, whatever is activated,
    evicted or deleted meanwhile; the memory is freed when the last row lets go.
    """

    manifest: Manifest
    version: int  # 0: the bare base
    digest: str
    kind: Kind
    adaptation: AnyAdaptation
    head: Tensors
    parameters: int
    bytes: int

    @cached_property
    def head_addresses(self) -> tuple[int, int]:
        """Where the head's weight and bias are; 0: it has none."""
        if not self.head:
            return 0, 0
        return self.head["head.weight"].data_ptr(), self.head["head.bias"].data_ptr()


def bare_resident(base: BaseModel) -> Resident:
    """The base itself as a task: embeddings by mean pooling."""
    manifest = Manifest(
        task=BARE_TASK,
        kind="embedding",
        method=Head(),
        base=base.identity,
        tokenizer=TokenizerSettings(max_length=min(256, base.max_length)),
        head=HeadSettings(pooling="mean"),
        description="The bare base: the mean of its token vectors, scaled to length one.",
    )
    return Resident(manifest, 0, base.fingerprint, kind_of(manifest), BARE, {}, 0, 0)


class Bank:
    """Resident versions by task: the active ones, and a few others that were active before or are asked for by number.

    Of both there is a limit; past it, one that is asked for less makes room: of the active versions, pinned tasks'
    excepted, by `Sieve`, and of the few others the one unused longest. A row in flight holds its own, so nobody waits
    for anybody here.
    """

    def __init__(
        self,
        active: int | None = None,
        others: int = 8,
        pinned: Collection[str] = (),
        evicted: Callable[[], object] = lambda: None,
    ) -> None:
        """
        Args:
            active, others: how many are kept; None: all.
            evicted: called for each that makes room.
        """
        self._active: dict[str, Resident] = {}
        self._sieve: Sieve[str] = Sieve()  # of the active ones, less the pinned
        self._others: OrderedDict[tuple[str, int], Resident] = OrderedDict()
        self._most_active, self._most_others = active, others
        self._pinned = frozenset(pinned)
        self._known: WeakKeyDictionary[Resident, str] = WeakKeyDictionary()  # the tasks of all that are in memory
        self._evicted = evicted
        self._lock = Lock()

    @property
    def full(self) -> bool:
        """Whether another active version would make one go."""
        return self._most_active is not None and len(self._active) >= self._most_active

    def pins(self, task: str) -> bool:
        """Whether the task's active version stays whatever happens."""
        return task in self._pinned

    def get(self, task: str, version: int) -> Resident | None:
        with self._lock:
            resident = self._active.get(task)
            if resident is not None and resident.version == version:
                self._sieve.ask(task)
                return resident
            resident = self._others.get((task, version))
            if resident is not None:
                self._others.move_to_end((task, version))
            return resident

    def holds(self, task: str, version: int) -> bool:
        """As `get`, but not counted as use."""
        active = self._active.get(task)
        return (active is not None and active.version == version) or (task, version) in self._others

    def serve(self, task: str, resident: Resident) -> None:
        """Holds a task's active version. The one that was becomes one of the few others: it may be rolled back to."""
        with self._lock:
            self._known[resident] = task
            self._others.pop((task, resident.version), None)
            before = self._active.get(task)
            if before is None:
                if self.full and self._sieve:
                    del self._active[self._sieve.pop()]
                    self._evicted()
                if not self.pins(task):
                    self._sieve.add(task)
            elif before.version != resident.version:
                self._keep(task, before)
            self._active[task] = resident

    def keep(self, task: str, resident: Resident) -> None:
        """Holds a version that is not active."""
        with self._lock:
            active = self._active.get(task)
            if active is not None and active.version == resident.version:
                return
            self._known[resident] = task
            self._keep(task, resident)

    def drop(self, task: str, version: int) -> None:
        with self._lock:
            active = self._active.get(task)
            if active is not None and active.version == version:
                del self._active[task]
                self._sieve.remove(task)
            self._others.pop((task, version), None)

    def leaving(self, task: str) -> "list[ref[Resident]]":
        """What was let go of a task, and is still held by somebody: rows under way, most likely."""
        with self._lock:
            held = {id(self._active.get(task)), *(id(one) for (name, _), one in self._others.items() if name == task)}
            return [ref(one) for one, name in self._known.items() if name == task and id(one) not in held]

    def active(self) -> list[Resident]:
        """The versions that answer; those that came last first."""
        with self._lock:
            return list(self._active.values())[::-1]

    def _keep(self, task: str, resident: Resident) -> None:
        self._others[task, resident.version] = resident
        while len(self._others) > self._most_others:
            self._others.popitem(last=False)
            self._evicted()

    def __iter__(self) -> Iterator[Resident]:
        with self._lock:
            return iter([*self._active.values(), *self._others.values()])
