"""The manifest: what an adapter file says of itself. It travels as JSON in the file's header."""

from collections import Counter
from datetime import date as Date
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from service.adapters.methods import AnyMethod, Dims
from service.errors import BadAdapter
from service.strict import Strict

TASK_NAME = r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$"
TASK_NAME_WORDS = "small letters, digits, '.', '_' and '-'; a letter or digit at both ends; at most 64"
TaskName = Annotated[str, Field(pattern=TASK_NAME, description="small letters, digits, '.', '_' and '-'; at most 64")]
KindName = Literal["classification", "multilabel", "regression", "tagging", "answer", "embedding"]
Label = Annotated[str, Field(min_length=1, max_length=200)]
Finite = Annotated[float, Field(allow_inf_nan=False)]

MAX_LABELS = 10_000
MAX_GOLDEN = 64
MAX_OUTPUTS = 10_000  # of one golden example; kinds that read every token have some for each


class BaseIdentity(Strict):
    """The base an adapter was trained on. Only the fingerprint decides; the name is for people."""

    name: str = Field(max_length=200)
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$", description="hash of the base's weights and tokenizer")
    hidden_size: int = Field(ge=1, le=100_000)
    inner_size: int = Field(ge=1, le=1_000_000, description="of the feed-forward sub-layer")
    layers: int = Field(ge=1, le=1000)
    heads: int = Field(ge=1, le=10_000)
    gated: bool = Field(default=False, description="whether the feed-forward sub-layer has a gate")

    @property
    def dims(self) -> Dims:
        return Dims(self.layers, self.hidden_size, self.inner_size, self.heads, self.gated)


class TokenizerSettings(Strict):
    max_length: int = Field(default=128, ge=8, le=100_000, description="tokens, special ones included")
    overlap: int = Field(default=64, ge=0, le=100_000, description="tokens that neighbouring windows share (answer)")


class HeadSettings(Strict):
    pooling: Literal["mean", "first"] = Field(
        default="mean", description="how a row's token vectors become one: their mean, or the first token's"
    )
    pair: bool = Field(default=False, description="whether an input is two texts")


class Calibration(Strict):
    """From the head's raw outputs to what the service answers; within bounds that float32 can compute with."""

    temperature: float = Field(default=1.0, ge=1e-3, le=1e3, description="divides the logits that scores come from")
    threshold: float = Field(default=0.5, ge=0, le=1, description="multilabel: the score from which a label is given")
    none_margin: float | None = Field(
        default=None,
        ge=-1e6,
        le=1e6,
        description="answer: none is given where it is likelier than the best by more than this; null: always answer",
    )
    mean: float = Field(default=0.0, ge=-1e30, le=1e30, description="regression: value = mean + deviation · output")
    deviation: float = Field(default=1.0, ge=1e-30, le=1e30)


class Trained(Strict):
    """How good the adapter is, on what, and how it came about."""

    metric: str = Field(max_length=100)
    value: Finite
    rows: int = Field(ge=0, description="training examples")
    seed: int
    date: Date
    source: str = Field(default="", max_length=2000)
    test_value: Finite | None = Field(default=None, description="the metric on a test set that training never saw")


class Input(Strict):
    """One input of kinds that read a text or two."""

    text: str
    text_pair: str | None = None


class Golden(Strict):
    """An input with the outputs its trainer saw: the value, or probabilities by label, for each token that is read."""

    input: Input
    outputs: list[Finite] = Field(fail_fast=True, max_length=MAX_OUTPUTS)


class Manifest(Strict):
    """Everything about an adapter but its numbers."""

    format: Literal[1] = 1
    task: TaskName
    kind: KindName
    method: AnyMethod
    labels: list[Label] = Field(fail_fast=True, default_factory=list, max_length=MAX_LABELS)
    base: BaseIdentity
    tokenizer: TokenizerSettings = TokenizerSettings()
    head: HeadSettings = HeadSettings()
    calibration: Calibration = Calibration()
    trained: Trained | None = None
    golden: list[Golden] = Field(fail_fast=True, default_factory=list, max_length=MAX_GOLDEN)
    tolerance: float = Field(default=0.02, gt=0, le=1, description="how far an answer may be from a golden output")
    description: str = Field(default="", max_length=10_000)
    licence: str = Field(default="", max_length=500)
    seal: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="hash of the rest and of the tensors, made when it was written",
    )

    @model_validator(mode="after")
    def _labels_fit_kind(self) -> "Manifest":
        if len(set(self.labels)) != len(self.labels):
            twice = next(label for label, count in Counter(self.labels).items() if count > 1)
            raise ValueError(f"labels: {twice!r} is named twice")
        if self.kind == "classification" and len(self.labels) < 2:
            raise ValueError(f"labels: classification needs at least two, found {len(self.labels)}")
        if self.kind in ("multilabel", "tagging") and not self.labels:
            raise ValueError(f"labels: {self.kind} needs at least one")
        if self.kind in ("regression", "answer", "embedding") and self.labels:
            raise ValueError(f"labels: {self.kind} has none, found {len(self.labels)}")
        if self.kind in ("tagging", "answer") and self.head.pair != (self.kind == "answer"):
            raise ValueError(f"head.pair: {self.kind} reads {'one text' if self.head.pair else 'two texts'}")
        return self


def parse_manifest(text: str) -> Manifest:
    """Reads a manifest's JSON; the error names the first field that is wrong."""
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadAdapter(f"manifest: {field + ': ' if field else ''}{first['msg']}") from error
