"""What the service answers, as types. A later service may say more; what is named here is always there."""

from typing import Any, TypedDict

from service.adapters.manifest import KindName


class ScoredLabel(TypedDict):
    label: str
    score: float


class Entity(ScoredLabel):
    """Characters [start, end) of the text as it was sent."""

    text: str
    start: int
    end: int


class Prediction(TypedDict, total=False):
    """One input's answer. Which of these it has is the kind's matter."""

    label: str  # classification
    score: float  # classification, answer
    scores: list[ScoredLabel]  # classification, highest first
    labels: list[ScoredLabel]  # multilabel
    value: float  # regression
    entities: list[Entity]  # tagging
    answer: str | None  # answer; None: the passage holds none, and so for start and end
    start: int | None
    end: int | None
    embedding: list[float]  # embedding


class TaskFacts(TypedDict):
    task: str
    kind: KindName
    labels: list[str]
    pair: bool
    version: int
    digest: str
    method: str
    metric: str | None
    value: float | None
    test_value: float | None
    description: str
    resident: bool
    parameters: int


class VersionFacts(TypedDict):
    task: str
    version: int
    digest: str
    bytes: int
    state: str
    problem: str | None
    proof: dict[str, Any] | None


class Latency(TypedDict):
    """In seconds."""

    p50: float | None
    p95: float | None


class SeenFacts(TypedDict):
    version: int
    requests: int
    failed: int
    latency: Latency


class CandidateFacts(TypedDict):
    version: int
    mode: str
    share: float
    since: str
    compared: int
    agreed: int
    agreement: float | None
    failed: int
    dropped: int
    seen: dict[str, SeenFacts]  # "active" and "candidate"


class TaskVersions(TypedDict):
    task: str
    active: int | None
    candidate: CandidateFacts | None
    versions: list[VersionFacts]


class BaseStats(TypedDict):
    name: str
    parameters: int
    bytes: int
    fingerprint: str
    dtype: str


class AdapterStats(TypedDict):
    tasks: int
    resident: int
    parameters: int
    bytes: int


class Stats(TypedDict):
    base: BaseStats
    adapters: AdapterStats
    ratio: float
    fine_tuned_parameters: int
