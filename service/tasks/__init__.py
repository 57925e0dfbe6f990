"""The kinds of task. A new one is a file here and a row in `KINDS`."""

from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Tokenizer

from service.adapters.manifest import KindName, Manifest
from service.adapters.methods import Dims, Shape
from service.errors import BadAdapter
from service.tasks.answer import AnswerKind
from service.tasks.base import Answer, Floats, Kind, Label, Labelled, Prediction, Span
from service.tasks.classification import Classification
from service.tasks.embedding import Embedding
from service.tasks.multilabel import Multilabel
from service.tasks.reading import Given, Reading, TokenizedRow, read
from service.tasks.regression import Regression
from service.tasks.tagging import Tagging

KINDS: dict[KindName, Kind] = {
    kind.name: kind for kind in (Classification(), Multilabel(), Regression(), Tagging(), AnswerKind(), Embedding())
}


def kind_of(manifest: Manifest) -> Kind:
    return KINDS[manifest.kind]


class ReadingSettings(NamedTuple):
    """All that decides how a task reads an input; the arguments of `read`."""

    max_length: int
    overlap: int | None
    spans: bool


def reading_settings(manifest: Manifest) -> ReadingSettings:
    kind, settings = kind_of(manifest), manifest.tokenizer
    return ReadingSettings(settings.max_length, settings.overlap if kind.windowed else None, kind.per_token)


def read_for(manifest: Manifest, tokenizer: Tokenizer, inputs: Sequence[Given]) -> list[Reading]:
    """Tokenises inputs as the task does."""
    return read(tokenizer, inputs, *reading_settings(manifest))


def expected_shapes(manifest: Manifest, dims: Dims) -> dict[str, Shape]:
    """Every tensor that an adapter with this manifest holds: the method's and the head's."""
    problem = manifest.method.check(dims)
    if problem:
        raise BadAdapter(f"manifest: {problem}")
    return manifest.method.shapes(dims) | kind_of(manifest).head_shapes(manifest, dims)


__all__ = [
    "KINDS",
    "Answer",
    "Floats",
    "Given",
    "Kind",
    "Label",
    "Labelled",
    "Prediction",
    "Reading",
    "Span",
    "TokenizedRow",
    "expected_shapes",
    "kind_of",
    "read_for",
    "reading_settings",
]
