"""What goes over the wire: requests as they are checked, answers as they are documented."""

from collections import Counter
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

from service.adapters.manifest import KindName
from service.api.trials import WINDOW
from service.registry.log import Entry
from service.registry.proof import Proof
from service.registry.release import Mode, Role
from service.strict import Strict


class _Request(Strict):
    model_config = ConfigDict(strict=True)


class TextInput(_Request):
    """A text, or two for tasks that compare."""

    text: str
    text_pair: str | None = None


class QuestionInput(_Request):
    """A question and the passage that may answer it."""

    question: str
    context: str


# Inputs are told apart by form, so that an error speaks of what was sent and not of every alternative.
FORMS = TEXT, OBJECT, QUESTION, ONE, MANY = "as text", "as object", "as question", "as one", "as many"


def _input_form(value: Any) -> str | None:
    if isinstance(value, str):
        return TEXT
    if not isinstance(value, dict):
        return None
    return QUESTION if value.keys() & {"question", "context"} else OBJECT


def _inputs_form(value: Any) -> str:
    return MANY if isinstance(value, list) else ONE


OneInput = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[TextInput, Tag(OBJECT)] | Annotated[QuestionInput, Tag(QUESTION)],
    Discriminator(
        _input_form,
        custom_error_type="input_form",
        custom_error_message="An input is a text, {text, text_pair} or {question, context}",
    ),
]
Inputs = Annotated[
    Annotated[OneInput, Tag(ONE)] | Annotated[list[OneInput], Field(min_length=1, fail_fast=True), Tag(MANY)],
    Discriminator(_inputs_form),
]


class ManyParameters(_Request):
    top_k: int | None = Field(
        default=None, ge=1, description="labels in a classification's `scores` at most; all when left out"
    )
    truncate: bool = Field(default=True, description="cut inputs over the task's length; false: refuse them")
    timeout: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="seconds, as the header X-Request-Timeout"
    )


class Parameters(ManyParameters):
    version: int | None = Field(default=None, ge=0, description="another version than the active one")


class PredictRequest(_Request):
    inputs: Inputs = Field(
        description="a text, {text, text_pair} or {question, context}, as the task reads it, or a list of them",
        examples=[["I loved every minute of it.", "Not worth the ticket."]],
    )
    parameters: Parameters = Parameters()


class PredictManyRequest(_Request):
    tasks: list[str] = Field(min_length=1, description="names of tasks, each once", examples=[["sentiment", "spam"]])
    inputs: Inputs = Field(
        description="as for one task; every task named must read inputs of this form",
        examples=[["I loved every minute of it."]],
    )
    parameters: ManyParameters = ManyParameters()

    @field_validator("tasks")
    @classmethod
    def _each_once(cls, tasks: list[str]) -> list[str]:
        if len(set(tasks)) < len(tasks):
            twice = next(task for task, count in Counter(tasks).items() if count > 1)
            raise PydanticCustomError("twice", "Task {task} is named twice", {"task": repr(twice)})
        return tasks


class ActivateRequest(_Request):
    version: int = Field(ge=1)


class CandidateRequest(_Request):
    version: int = Field(ge=1, description="of the task; the candidate that stands, or where none does, any other")
    mode: Mode = Field(description="shadow: the active version answers all; share: the candidate answers its share")
    share: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="of the requests, those that fall to the candidate: both versions run them; needed for mode "
        "share, else all when left out",
    )

    @model_validator(mode="after")
    def _share_is_said(self) -> Self:
        if self.mode == "share" and self.share is None:
            raise PydanticCustomError("no_share", "Mode share needs a share, 0 to 1")
        return self


class Usage(BaseModel):
    tokens: int = Field(description="tokens run, special ones included")
    truncated: int = Field(description="inputs that were cut")


class PredictAnswer(BaseModel):
    task: str
    version: int
    digest: str
    kind: KindName
    predictions: list[dict[str, Any]] = Field(
        description="one per input: {label, score, scores} for classification, {labels} for multilabel, {value} for "
        "regression, {entities} for tagging, {answer, start, end, score} for answer, {embedding} for embedding"
    )
    usage: Usage


class PredictManyAnswer(BaseModel):
    answers: list[PredictAnswer] = Field(description="one per task, in the order asked for")


class TaskAnswer(BaseModel):
    """What is to answer a task, and what does. Where nothing does, all that follows `reason` is left empty."""

    task: str
    active: int | None = Field(description="the version that is to answer; 0 is the bare base, null: nobody knows")
    version: int | None = Field(default=None, description="the version that does")
    reason: str | None = Field(default=None, description="why it is another; null: it is not")
    kind: KindName | None = None
    labels: list[str] = []
    pair: bool = Field(default=False, description="whether an input is two texts")
    digest: str | None = None
    method: str | None = None
    metric: str | None = None
    value: float | None = Field(default=None, description="the metric on the validation set that chose the adapter")
    test_value: float | None = Field(default=None, description="the metric on a test set that training never saw")
    description: str = ""
    resident: bool = False
    parameters: int = 0


class VersionAnswer(BaseModel):
    task: str
    version: int
    digest: str
    bytes: int
    state: Literal["active", "candidate", "inactive", "refused"]
    problem: str | None = None
    proof: Proof | None = Field(default=None, description="null: found in the store, proved when it is to be activated")


class LogAnswer(BaseModel):
    task: str
    entries: list[Entry] = Field(description="every change, the oldest first")


class Latency(BaseModel):
    """Of a request's texts to its answers, in seconds; null before the first."""

    p50: float | None
    p95: float | None


class SeenAnswer(BaseModel):
    version: int
    requests: int = Field(description="answered, or run in the shadow")
    failed: int = Field(description="of these")
    latency: Latency = Field(description=f"over the last {WINDOW} that did not fail")


class CandidateAnswer(BaseModel):
    """Counts are of this process since `since`, of requests that named no version."""

    version: int
    mode: Mode
    share: float = Field(description="of the requests: those that fall to the candidate")
    since: datetime
    compared: int = Field(description="inputs that both versions answered")
    agreed: int = Field(description="of these, where the answers come to the same")
    agreement: float | None = Field(description="agreed / compared; null before the first")
    failed: int = Field(description="inputs that the version in the shadow could not answer")
    dropped: int = Field(description="inputs that were not compared, since the engine had no room")
    seen: dict[Role, SeenAnswer]


class AdapterAnswer(BaseModel):
    task: str
    active: int | None
    candidate: CandidateAnswer | None = Field(description="null: no release is under way")
    versions: list[VersionAnswer]


class BaseStats(BaseModel):
    name: str
    parameters: int
    bytes: int
    fingerprint: str
    dtype: str


class AdapterStats(BaseModel):
    tasks: int
    resident: int
    parameters: int
    bytes: int


class StatsAnswer(BaseModel):
    """N tasks cost |w| + Σ|v| parameters here, N·|w| as fine-tuned models."""

    base: BaseStats
    adapters: AdapterStats
    ratio: float = Field(description="(|w| + Σ|v|) / |w|")
    fine_tuned_parameters: int = Field(description="N·|w|")


class Problem(BaseModel):
    """RFC 9457. Of a refused adapter it also has `step`, and where known `tensor`, `example`, `expected`, `got`.

    `request_id` is the request's in the log and in the header X-Request-Id.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
