"""Multilabel: each label for itself, given where its score reaches the threshold."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.adapters.manifest import Calibration, Manifest
from service.engine.base_model import BaseModel
from service.tasks import Floats, Label, Labelled, Prediction, Span
from service.tasks.multilabel import Multilabel
from tests.tiny import UNREAD, make_manifest

KIND = Multilabel()
LABELS = ["red", "green", "blue"]
LOGITS = st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3).map(lambda raw: np.array(raw, np.float32))
SETS = st.sets(st.sampled_from(LABELS)).map(lambda labels: tuple(sorted(labels)))


def decode(manifest: Manifest, raw: Floats, top_k: int | None = None) -> Prediction:
    return KIND.decode(manifest, UNREAD, [raw], top_k)


@pytest.fixture(scope="module")
def manifest(tiny_base: BaseModel) -> Manifest:
    return make_manifest(tiny_base, kind="multilabel", labels=LABELS)


def test_labels_come_with_their_sigmoid_the_highest_first(manifest: Manifest) -> None:
    answer, outputs = decode(manifest, np.log(np.array([3, 1 / 4, 9], np.float32)))
    assert [entry["label"] for entry in answer["labels"]] == ["blue", "red"]
    assert [entry["score"] for entry in answer["labels"]] == pytest.approx([0.9, 0.75])
    np.testing.assert_allclose(outputs, [0.75, 0.2, 0.9], rtol=1e-6)  # all of them, in the labels' order


@given(LOGITS, st.floats(0, 1))
def test_a_label_is_given_just_where_its_score_reaches_the_threshold(
    manifest: Manifest, raw: Floats, threshold: float
) -> None:
    strict = manifest.model_copy(update={"calibration": Calibration(threshold=threshold)})
    answer, outputs = decode(strict, raw)
    scores = [entry["score"] for entry in answer["labels"]]
    assert scores == sorted(scores, reverse=True)
    assert {entry["label"] for entry in answer["labels"]} == {
        label for label, score in zip(LABELS, outputs, strict=True) if score >= threshold
    }


def test_top_k_takes_no_label_away(manifest: Manifest) -> None:
    """It shortens a list of scores; every label here is an answer."""
    answer = decode(manifest, np.array([1, 3, 2], np.float32), 2).answer
    assert [entry["label"] for entry in answer["labels"]] == ["green", "blue", "red"]


def test_no_label_at_all_is_an_answer(manifest: Manifest) -> None:
    assert decode(manifest, np.full(3, -5, np.float32)).answer == {"labels": []}


def test_huge_logits_are_certain_not_broken(manifest: Manifest) -> None:
    outputs = decode(manifest, np.array([3e38, -3e38, 0], np.float32)).outputs
    np.testing.assert_allclose(outputs, [1, 0, 0.5], atol=1e-6)


@given(SETS)
def test_targets_and_decoding_are_inverses(manifest: Manifest, labels: tuple[str, ...]) -> None:
    KIND.check_label(manifest, labels)
    [target] = KIND.targets(manifest, UNREAD, labels)
    answer = decode(manifest, 20 * target.numpy() - 10).answer
    assert sorted(entry["label"] for entry in answer["labels"]) == sorted(labels)


@pytest.mark.parametrize(
    ("label", "cause"),
    [
        ("red", "'red' is not a list of labels"),
        (("red", "mauve"), "'mauve' is not one of the labels red, green, blue"),
        ((Span(0, 3, "red"),), "is not a list of labels"),
    ],
)
def test_a_label_that_is_none_of_the_tasks_is_named(manifest: Manifest, label: Label, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        KIND.check_label(manifest, label)


def test_the_loss_is_the_mean_binary_cross_entropy(manifest: Manifest) -> None:
    outputs = torch.log(torch.tensor([[3.0, 1 / 4, 9.0]]))
    targets = KIND.targets(manifest, UNREAD, ("red",))
    expected = -(np.log(0.75) + np.log(0.8) + np.log(0.1)) / 3
    assert KIND.loss(outputs, targets, torch.tensor([7])).item() == pytest.approx(expected)


def test_answers_are_measured_label_by_label(manifest: Manifest) -> None:
    answered: list[tuple[tuple[str, ...], Label]] = [
        (("red", "green"), ("red",)),
        ((), ("green", "blue")),
        (("blue",), ("blue",)),
        ((), ()),
    ]
    tallies = _tallies(manifest, answered)
    assert KIND.counts(manifest, tallies) == {"red": (1, 0, 0), "green": (0, 1, 1), "blue": (1, 0, 1)}
    assert KIND.figure(manifest, "micro_f1", tallies) == pytest.approx(4 / (4 + 1 + 2))
    assert KIND.figure(manifest, "macro_f1", tallies) == pytest.approx((1 + 0 + 2 / 3) / 3)


@pytest.mark.parametrize("metric", KIND.metrics)
def test_perfect_answers_are_worth_one_also_where_a_label_never_occurs(manifest: Manifest, metric: str) -> None:
    sets: list[tuple[str, ...]] = [("red",), (), ("red", "blue")]
    assert KIND.figure(manifest, metric, _tallies(manifest, [(one, one) for one in sets])) == 1


def test_calibration_finds_the_temperature_and_a_better_threshold(manifest: Manifest) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(-2, 1.5, (1500, 3)).astype(np.float32)
    right = generator.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))
    labels = [tuple(label for label, one in zip(LABELS, row, strict=True) if one) for row in right]
    raw = [[row * np.float32(3)] for row in logits]
    found = KIND.calibrate(manifest, raw, Labelled([UNREAD] * len(raw), labels), "micro_f1")
    assert found.temperature == pytest.approx(3, rel=0.1)
    assert found.threshold < 0.45  # rare labels are worth a guess
    before, after = (
        KIND.figure(
            one,
            "micro_f1",
            _tallies(
                one,
                [
                    (tuple(entry["label"] for entry in decode(one, row[0]).answer["labels"]), label)
                    for row, label in zip(raw, labels, strict=True)
                ],
            ),
        )
        for one in (manifest, manifest.model_copy(update={"calibration": found}))
    )
    assert after > before + 0.02


def _tallies(manifest: Manifest, answered: list[tuple[tuple[str, ...], Label]]) -> np.ndarray:
    """Of pairs (labels given, labels right)."""
    return np.array(
        [KIND.tally(manifest, {"labels": [{"label": one} for one in given]}, right) for given, right in answered]
    )
