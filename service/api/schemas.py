"""What goes over the wire: requests as they are checked, answers as they are documented."""

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator
from pydantic_core import PydanticCustomError

from service.adapters.manifest import KindName
from service.registry.log import Entry
from service.registry.proof import Proof
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
    task: str
    kind: KindName
    labels: list[str]
    pair: bool = Field(description="whether an input is two texts")
    version: int = Field(description="the active one; 0 is the bare base")
    digest: str
    method: str
    metric: str | None
    value: float | None = Field(description="the metric on the validation set that chose the adapter")
    test_value: float | None = Field(description="the metric on a test set that training never saw")
    description: str
    resident: bool
    parameters: int


class VersionAnswer(BaseModel):
    task: str
    version: int
    digest: str
    bytes: int
    state: Literal["active", "inactive", "refused"]
    problem: str | None = None
    proof: Proof | None = Field(default=None, description="null: found in the store, proved when it is to be activated")


class LogAnswer(BaseModel):
    task: str
    entries: list[Entry] = Field(description="every change, the oldest first")


class AdapterAnswer(BaseModel):
    task: str
    active: int | None
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
    """RFC 9457. Of a refused adapter it also has `step`, and where known `tensor`, `example`, `expected`, `got`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
