"""Figures come with their uncertainty, by label; they look at answers alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.adapters.manifest import KindName
from service.engine.base_model import BaseModel
from service.tasks import KINDS, Span
from service.training.measure import MAX_CONFUSION_LABELS, measure_answers, value_of
from tests.tiny import make_manifest


def _classified(label: str, score: float = 0.8) -> dict[str, Any]:
    return {"label": label, "score": score, "scores": [{"label": label, "score": score}]}


def _entities(*spans: Span) -> dict[str, Any]:
    return {"entities": [span._asdict() | {"score": 0.5} for span in spans]}


def _answered(text: str | None) -> dict[str, Any]:
    return {"answer": text, "start": 0, "end": 0, "score": 0.5}


A, B, RED, CAT = "a", "b", Span(2, 5, "a"), Span(6, 9, "b")
# By kind: right answers and wrong ones, in the form of the service, with the labels of both.
CASES: dict[KindName, list[tuple[dict[str, Any], Any, bool]]] = {
    "classification": [(_classified(A), A, True), (_classified(B), A, False), (_classified(B), B, True)],
    "multilabel": [
        ({"labels": [{"label": A, "score": 0.9}]}, (A,), True),
        ({"labels": [{"label": A, "score": 0.9}]}, (B,), False),
        ({"labels": []}, (A, B), False),
    ],
    "regression": [({"value": 1.0}, "1", True), ({"value": 3.0}, "2", False), ({"value": 2.0}, "3", False)],
    "tagging": [
        (_entities(RED, CAT), (RED, CAT), True),
        (_entities(Span(2, 9, "a")), (RED,), False),
        (_entities(Span(6, 9, "a")), (CAT,), False),
    ],
    "answer": [
        (_answered("the Cat."), (Span(0, 3, "cat"),), True),
        (_answered(None), (), True),
        (_answered("cat"), (), False),
        (_answered(None), (Span(0, 3, "cat"),), False),
    ],
}
every_kind = pytest.mark.parametrize("kind", CASES)


@every_kind
def test_right_answers_are_worth_one_and_wrong_ones_less(tiny_base: BaseModel, kind: KindName) -> None:
    manifest = make_manifest(tiny_base, kind=kind, labels=(A, B))
    right = [(answer, label) for answer, label, good in CASES[kind] if good]
    for metric in KINDS[kind].metrics:
        answers, labels = zip(
            *(right if kind != "regression" else [({"value": 1.0}, "1"), ({"value": 2.0}, "2")]), strict=True
        )
        assert measure_answers(manifest, answers, labels, metric).value == pytest.approx(1)
        answers, labels, _ = zip(*CASES[kind], strict=True)
        assert measure_answers(manifest, answers, labels, metric).value < 0.9


@every_kind
def test_the_first_metric_leads_and_the_others_follow(tiny_base: BaseModel, kind: KindName) -> None:
    manifest = make_manifest(tiny_base, kind=kind, labels=(A, B))
    answers, labels, _ = zip(*CASES[kind], strict=True)
    measured, metrics = measure_answers(manifest, answers, labels), KINDS[kind].metrics
    assert (measured.metric, measured.rows) == (metrics[0], len(answers))
    assert measured.others.keys() == set(metrics[1:])
    for metric in metrics[1:]:
        assert measured.others[metric] == value_of(manifest, metric, answers, labels)
        assert measure_answers(manifest, answers, labels, metric).metric == metric
    assert (measured.calibration_error is not None) == (kind == "classification")
    assert (measured.confusion is not None) == (kind == "classification")


@every_kind
def test_the_interval_holds_the_value_and_shrinks_with_rows(tiny_base: BaseModel, kind: KindName) -> None:
    manifest = make_manifest(tiny_base, kind=kind, labels=(A, B))
    answers, labels, _ = zip(*CASES[kind], strict=True)
    widths = []
    for times in (5, 80):
        measured = measure_answers(manifest, answers * times, labels * times)
        assert measured.interval.low <= measured.value <= measured.interval.high
        widths.append(measured.interval.high - measured.interval.low)
    assert widths[1] < widths[0] / 2
    assert measure_answers(manifest, answers, labels).interval == measure_answers(manifest, answers, labels).interval


def test_the_interval_of_a_share_is_wilsons(tiny_base: BaseModel) -> None:
    """Of 400 answers, 300 right: (0.75 + z²/800 ± z · √(0.75 · 0.25 / 400 + z²/640,000)) / (1 + z²/400)."""
    manifest = make_manifest(tiny_base, labels=(A, B))
    measured = measure_answers(manifest, [_classified(A)] * 400, [A] * 300 + [B] * 100)
    np.testing.assert_allclose(measured.interval, (0.7053, 0.7899), atol=1e-4)


@pytest.mark.parametrize("kind", ["classification", "answer"])
def test_a_few_right_answers_are_no_certainty(tiny_base: BaseModel, kind: KindName) -> None:
    """Ten of ten, or none: Wilson's interval ends at 1 / (1 + z²/10) from the other side."""
    manifest = make_manifest(tiny_base, kind=kind, labels=(A, B))
    metric = "accuracy" if kind == "classification" else "exact_match"
    for good, interval in ((True, (0.7225, 1)), (False, (0, 0.2775))):
        answer, label, _ = next(case for case in CASES[kind] if case[2] == good)
        measured = measure_answers(manifest, [answer] * 10, [label] * 10, metric)
        np.testing.assert_allclose(measured.interval, interval, atol=1e-4)


def test_the_interval_of_another_metric_is_what_resampling_gives(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 400 answers with an F1 of 1 or 0, 300 with 1: 0.75 ± 1.96 · √(0.75 · 0.25 / 400)."""
    monkeypatch.setattr("service.training.measure.RESAMPLES", 1000)
    manifest = make_manifest(tiny_base, kind="answer")
    right, wrong = CASES["answer"][0][:2], CASES["answer"][3][:2]
    answers, labels = zip(*[right] * 300, *[wrong] * 100, strict=True)
    measured = measure_answers(manifest, answers, labels, "f1")
    np.testing.assert_allclose(measured.interval, (0.7076, 0.7924), atol=0.006)


def test_labels_are_counted_one_by_one(tiny_base: BaseModel) -> None:
    manifest = make_manifest(tiny_base, labels=(A, B))
    measured = measure_answers(manifest, [_classified(name) for name in "aaabb"], list("aabbb"))
    assert measured.by_label == {A: (2, 1, 0), B: (2, 0, 1)}
    assert measured.confusion == [[2, 0], [1, 2]]
    found = measured.by_label[A]
    np.testing.assert_allclose((found.precision, found.recall, found.f1), (2 / 3, 1, 0.8))
    several = make_manifest(tiny_base, kind="multilabel", labels=(A, B))
    answers, labels, _ = zip(*CASES["multilabel"], strict=True)
    assert measure_answers(several, answers, labels).by_label == {A: (1, 1, 1), B: (0, 0, 2)}
    marked = make_manifest(tiny_base, kind="tagging", labels=(A, B))
    answers, labels, _ = zip(*CASES["tagging"], strict=True)
    assert measure_answers(marked, answers, labels).by_label == {A: (1, 2, 1), B: (1, 0, 1)}


def test_scores_that_promise_too_much_are_told(tiny_base: BaseModel) -> None:
    manifest = make_manifest(tiny_base, labels=(A, B))
    honest = measure_answers(manifest, [_classified(A, 0.75)] * 4, [A, A, A, B])
    boasting = measure_answers(manifest, [_classified(A, 1.0)] * 4, [A, A, A, B])
    assert honest.calibration_error == pytest.approx(0)
    assert boasting.calibration_error == pytest.approx(0.25)


def test_an_answer_that_is_no_label_of_the_task_is_a_miss(tiny_base: BaseModel) -> None:
    manifest = make_manifest(tiny_base, labels=(A, B))
    measured = measure_answers(manifest, [_classified("c"), _classified(B)], [A, B])
    assert (measured.value, measured.by_label[A]) == (0.5, (0, 0, 1))


def test_too_many_labels_have_no_table_of_confusions(tiny_base: BaseModel) -> None:
    names = [str(number) for number in range(MAX_CONFUSION_LABELS + 1)]
    manifest = make_manifest(tiny_base, labels=names)
    measured = measure_answers(manifest, [_classified(name) for name in ("0", "1", "2", "1")], ["0", "0", "1", "0"])
    assert measured.confusion is None
    assert len(measured.by_label) == len(names)
    assert measured.mistakes == [("0", "1", 2), ("1", "2", 1)]


def test_facts_are_json(tiny_base: BaseModel) -> None:
    manifest = make_manifest(tiny_base, labels=(A, B))
    facts = measure_answers(manifest, [_classified(A), _classified(A)], [A, B]).facts()
    assert facts["by_label"] == {
        A: {"hits": 1, "wrong": 1, "missed": 0, "precision": 0.5, "recall": 1, "f1": pytest.approx(2 / 3)},
        B: {"hits": 0, "wrong": 0, "missed": 1, "precision": 0, "recall": 0, "f1": 0},
    }
    assert facts["mistakes"] == [{"right": B, "answered": A, "rows": 1}]


@settings(max_examples=10)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("ab"), st.floats(0, 1)), min_size=1, max_size=12))
def test_any_answers_give_figures_within_bounds(tiny_base: BaseModel, rows: list[tuple[str, str, float]]) -> None:
    manifest = make_manifest(tiny_base, labels=(A, B))
    measured = measure_answers(
        manifest, [_classified(found, score) for found, _, score in rows], [r for _, r, _ in rows]
    )
    assert 0 <= measured.interval.low <= measured.value <= measured.interval.high <= 1
    assert measured.calibration_error is not None
    assert 0 <= measured.calibration_error <= 1
    assert sum(map(sum, measured.confusion or [])) == len(rows)
    assert measured.value == sum(found == right for found, right, _ in rows) / len(rows)
