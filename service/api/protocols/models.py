"""A task as a model of the Open Inference Protocol: the tensors it reads, and those it answers with."""

from collections.abc import Callable, Mapping, Sequence
from json import dumps
from typing import Any, NamedTuple

import numpy as np

from service.adapters.manifest import KindName, Manifest
from service.api.answering import Sent, input_names
from service.api.protocols.tensors import Datatype, OutputTensor, tensor
from service.api.schemas import QuestionInput, TextInput
from service.errors import BadInput
from service.tasks import Prediction

ANY = -1  # a dimension that the inputs decide
Predictions = Sequence[Prediction]


class Output(NamedTuple):
    """One tensor of a kind's answer. Where n inputs were sent and the shape begins with ANY, it has n rows."""

    name: str
    datatype: Datatype
    shape: Callable[[Manifest], list[int]]
    values: Callable[[Manifest, Predictions], Any]


def _rows(manifest: Manifest) -> list[int]:
    return [ANY]


def _by_label(manifest: Manifest) -> list[int]:
    return [ANY, len(manifest.labels)]


def _numbers(manifest: Manifest, predictions: Predictions) -> Any:
    return np.stack([prediction.outputs for prediction in predictions])


def _given(manifest: Manifest, predictions: Predictions) -> Any:
    found = [{one["label"] for one in prediction.answer["labels"]} for prediction in predictions]
    return [[label in labels for label in manifest.labels] for labels in found]


def _span(manifest: Manifest, predictions: Predictions) -> Any:
    spans = [(prediction.answer["start"], prediction.answer["end"]) for prediction in predictions]
    return [(ANY, ANY) if start is None else (start, end) for start, end in spans]


def _entities(predictions: Predictions) -> list[tuple[int, dict[str, Any]]]:
    return [(row, one) for row, prediction in enumerate(predictions) for one in prediction.answer["entities"]]


def _entity_spans(manifest: Manifest, predictions: Predictions) -> Any:
    spans = [(row, one["start"], one["end"]) for row, one in _entities(predictions)]
    return np.array(spans, dtype=np.int64).reshape(-1, 3)


def _field(name: str) -> Callable[[Manifest, Predictions], Any]:
    return lambda manifest, predictions: [prediction.answer[name] for prediction in predictions]


LABELS = Output("labels", "BYTES", lambda manifest: [len(manifest.labels)], lambda manifest, _: manifest.labels)
SCORES = Output("scores", "FP32", _by_label, _numbers)
PREDICTION = Output(
    "prediction", "BYTES", _rows, lambda _, found: [dumps(one.answer, ensure_ascii=False) for one in found]
)

OUTPUTS: dict[KindName, tuple[Output, ...]] = {
    "classification": (Output("label", "BYTES", _rows, _field("label")), SCORES, LABELS),
    "multilabel": (Output("given", "BOOL", _by_label, _given), SCORES, LABELS),
    "regression": (Output("value", "FP32", _rows, _field("value")),),
    "tagging": (
        PREDICTION,
        Output("span", "INT64", lambda _: [ANY, 3], _entity_spans),
        Output("label", "BYTES", _rows, lambda _, found: [one["label"] for _, one in _entities(found)]),
        Output("score", "FP32", _rows, lambda _, found: [one["score"] for _, one in _entities(found)]),
    ),
    "answer": (
        PREDICTION,
        Output("answer", "BYTES", _rows, lambda _, found: [one.answer["answer"] or "" for one in found]),
        Output("span", "INT64", lambda _: [ANY, 2], _span),
        Output("score", "FP32", _rows, _field("score")),
    ),
    "embedding": (Output("embedding", "FP32", lambda manifest: [ANY, manifest.base.hidden_size], _numbers),),
}


def inputs_of(manifest: Manifest) -> list[dict[str, Any]]:
    """The metadata of what the task reads."""
    return [{"name": name, "datatype": "BYTES", "shape": [ANY]} for name in input_names(manifest)]


def outputs_of(manifest: Manifest) -> list[dict[str, Any]]:
    """The metadata of what it answers with."""
    return [
        {"name": output.name, "datatype": output.datatype, "shape": output.shape(manifest)}
        for output in OUTPUTS[manifest.kind]
    ]


def chosen(manifest: Manifest, names: Sequence[str] | None) -> Sequence[Output]:
    """The outputs with these names, in their order; all, where none are named.

    Raises:
        BadInput: the kind has no such output.
    """
    known = {output.name: output for output in OUTPUTS[manifest.kind]}
    for name in names or ():
        if name not in known:
            raise BadInput(f"outputs: the task answers with {', '.join(known)}; {name} was asked for")
    return [known[name] for name in names or known]


def inputs_from(manifest: Manifest, texts: Mapping[str, Sequence[str]]) -> list[Sent]:
    """One input for each row of the tensors.

    Raises:
        BadInput: they are not those that the task reads, or have not as many rows as one another.
    """
    names = input_names(manifest)
    if set(texts) != set(names):
        raise BadInput(f"inputs: the task reads tensors {', '.join(names)}; {', '.join(texts)} were sent")
    if len({len(column) for column in texts.values()}) > 1:
        lengths = ", ".join(f"{len(column)} of {name}" for name, column in texts.items())
        raise BadInput(f"inputs: {lengths}; there must be as many of each")
    if not texts[names[0]]:
        raise BadInput("inputs: the tensors have no element")
    form = QuestionInput if manifest.kind == "answer" else TextInput
    rows = zip(*(texts[name] for name in names), strict=True)
    return [form.model_validate(dict(zip(names, row, strict=True))) for row in rows]


def answered(manifest: Manifest, outputs: Sequence[Output], predictions: Predictions) -> list[OutputTensor]:
    return [tensor(output.name, output.datatype, output.values(manifest, predictions)) for output in outputs]
