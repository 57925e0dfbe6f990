"""What is seen of a candidate beside the active version while a release is under way."""

from collections import deque
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from service.metrics import Metrics
from service.registry.registry import Registry
from service.registry.release import Candidate, Role

WINDOW = 1000  # requests whose latencies are kept, by version

Outcome = Literal["agreed", "differed", "failed", "dropped"]


class Seen:
    """What one version did, run in the shadow or answered."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.requests = 0
        self.failed = 0  # of the requests
        self._seconds: deque[float] = deque(maxlen=WINDOW)  # of the last requests that did not fail

    def took(self, seconds: float) -> None:
        self.requests += 1
        self._seconds.append(seconds)

    def fail(self) -> None:
        self.requests += 1
        self.failed += 1

    def latency(self, quantile: float) -> float | None:
        """In seconds; None before the first request."""
        return float(np.quantile(self._seconds, quantile)) if self._seconds else None


class Trial:
    """Two versions of a task side by side. Belongs to the event loop's thread.

    Counts are of this process, since `since`, and begin anew with other versions, not with another mode or share.
    """

    def __init__(self, task: str, active: int, candidate: Candidate, metrics: Metrics) -> None:
        self.task = task
        self.candidate = candidate
        self.since = datetime.now(UTC)
        self.seen: dict[Role, Seen] = {"active": Seen(active), "candidate": Seen(candidate.version)}
        self.inputs: dict[Outcome, int] = {"agreed": 0, "differed": 0, "failed": 0, "dropped": 0}
        self._metrics: Metrics | None = metrics
        for role in self.seen:  # a rate needs to have seen that there was none
            metrics.release_failures.labels(task, role)
        for outcome in self.inputs:
            metrics.release_inputs.labels(task, outcome)

    @property
    def versions(self) -> tuple[int, int]:
        return self.seen["active"].version, self.seen["candidate"].version

    @property
    def compared(self) -> int:
        """Inputs that both versions answered."""
        return self.inputs["agreed"] + self.inputs["differed"]

    @property
    def agreement(self) -> float | None:
        """The share of them on which they agreed; None before the first."""
        return self.inputs["agreed"] / self.compared if self.compared else None

    def took(self, role: Role, seconds: float) -> None:
        """A version has run a request."""
        self.seen[role].took(seconds)
        if self._metrics is not None:
            self._metrics.release_seconds.labels(self.task, role).observe(seconds)

    def fail(self, role: Role) -> None:
        self.seen[role].fail()
        if self._metrics is not None:
            self._metrics.release_failures.labels(self.task, role).inc()

    def count(self, outcome: Outcome, inputs: int = 1) -> None:
        """What came of comparing so many inputs."""
        self.inputs[outcome] += inputs
        if self._metrics is not None:
            self._metrics.release_inputs.labels(self.task, outcome).inc(inputs)

    def end(self) -> None:
        """Its series are gone; what is still under way counts no more there."""
        if self._metrics is not None:
            for metric in (self._metrics.release_seconds, self._metrics.release_failures, self._metrics.release_inputs):
                metric.remove_by_labels({"task": self.task})
            self._metrics = None


class Trials:
    """One for each task that has a candidate."""

    def __init__(self, registry: Registry, metrics: Metrics) -> None:
        self._registry, self._metrics = registry, metrics
        self._trials: dict[str, Trial] = {}

    def of(self, task: str) -> Trial | None:
        """The task's trial as it stands; None where it has no candidate."""
        standing, trial = self._registry.standing(task), self._trials.get(task)
        if trial is not None and (standing is None or trial.versions != (standing.active, standing.candidate.version)):
            self._trials.pop(task).end()
            trial = None
        if standing is None:
            return None
        if trial is None:
            trial = self._trials[task] = Trial(task, standing.active, standing.candidate, self._metrics)
        trial.candidate = standing.candidate
        return trial

    def refresh(self) -> None:
        """Ends those whose task has no candidate any more."""
        for task in [*self._trials]:
            self.of(task)
