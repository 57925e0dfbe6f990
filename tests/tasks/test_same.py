"""When two versions' answers to one input come to the same; what they are sure of plays no part."""

from typing import Any

import pytest

from service.adapters.manifest import Calibration, KindName
from service.engine.base_model import BaseModel
from service.tasks import kind_of
from tests.tiny import make_manifest


def entity(label: str, start: int, end: int, score: float = 0.5) -> dict[str, Any]:
    return {"label": label, "text": "x" * (end - start), "start": start, "end": end, "score": score}


def given(*labels: str, score: float = 0.9) -> dict[str, Any]:
    return {"labels": [{"label": label, "score": score} for label in labels]}


def span(start: int | None, end: int | None, score: float = 0.5) -> dict[str, Any]:
    return {"answer": None if start is None else "x", "start": start, "end": end, "score": score}


CASES: list[tuple[KindName, dict[str, Any], dict[str, Any], bool | None]] = [
    ("classification", {"label": "a", "score": 0.9}, {"label": "a", "score": 0.4}, True),
    ("classification", {"label": "a", "score": 0.9}, {"label": "b", "score": 0.9}, False),
    ("multilabel", given("a", "b"), given("b", "a", score=0.6), True),
    ("multilabel", given(), given(), True),
    ("multilabel", given("a", "b"), given("a"), False),
    ("regression", {"value": 3.0}, {"value": 3.39}, True),
    ("regression", {"value": 3.0}, {"value": 2.59}, False),
    (
        "tagging",
        {"entities": [entity("a", 0, 2), entity("b", 4, 6)]},
        {"entities": [entity("b", 4, 6, 0.9), entity("a", 0, 2)]},
        True,
    ),
    ("tagging", {"entities": [entity("a", 0, 2)]}, {"entities": [entity("b", 0, 2)]}, False),
    ("tagging", {"entities": [entity("a", 0, 2)]}, {"entities": [entity("a", 0, 3)]}, False),
    ("tagging", {"entities": [entity("a", 0, 2)]}, {"entities": []}, False),
    ("answer", span(3, 7), span(3, 7, 0.9), True),
    ("answer", span(None, None), span(None, None, 0.9), True),
    ("answer", span(3, 7), span(3, 8), False),
    ("answer", span(3, 7), span(None, None), False),
    ("embedding", {"embedding": [1.0, 0.0]}, {"embedding": [1.0, 0.0]}, None),
]


@pytest.mark.parametrize(("kind", "one", "other", "same"), CASES)
def test_answers_come_to_the_same(
    tiny_base: BaseModel, kind: KindName, one: dict[str, Any], other: dict[str, Any], same: bool | None
) -> None:
    """A number's tolerance is a fifth of its deviation: 0.4 where that is 2."""
    manifest = make_manifest(tiny_base, kind=kind, calibration=Calibration(deviation=2.0))
    assert kind_of(manifest).same(manifest, one, other) is same
    assert kind_of(manifest).same(manifest, other, one) is same
