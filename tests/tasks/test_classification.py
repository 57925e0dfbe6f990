"""Classification: scores that sum to one, the highest first, and labels that map to themselves."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.adapters.manifest import Calibration
from service.engine.base_model import BaseModel
from service.tasks import Floats, kind_of
from service.tasks.classification import Classification
from tests.tiny import make_manifest

KIND = Classification()
LABELS = ["red", "green", "blue"]
LOGITS = st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=3).map(lambda raw: np.array(raw, np.float32))


@given(LOGITS)
def test_scores_are_probabilities_with_the_highest_first(tiny_base: BaseModel, raw: Floats) -> None:
    answer, outputs = KIND.decode(make_manifest(tiny_base, labels=LABELS), raw)
    scores = [entry["score"] for entry in answer["scores"]]
    assert sum(scores) == pytest.approx(1)
    assert scores == sorted(scores, reverse=True)
    assert {entry["label"] for entry in answer["scores"]} == set(LABELS)
    assert raw[LABELS.index(answer["label"])] == pytest.approx(raw.max(), abs=1e-5)  # closer ones share a score
    assert answer["score"] == scores[0]
    by_label = {entry["label"]: entry["score"] for entry in answer["scores"]}
    assert outputs.tolist() == [by_label[label] for label in LABELS]  # golden outputs keep the labels' order


def test_scores_are_the_softmax(tiny_base: BaseModel) -> None:
    _, outputs = KIND.decode(make_manifest(tiny_base, labels=LABELS), np.log(np.array([1, 2, 5], np.float32)))
    np.testing.assert_allclose(outputs, [0.125, 0.25, 0.625], rtol=1e-6)


@pytest.mark.parametrize(("top_k", "expected"), [(1, ["blue"]), (2, ["blue", "red"]), (9, ["blue", "red", "green"])])
def test_top_k_cuts_the_list_and_not_the_scores(tiny_base: BaseModel, top_k: int, expected: list[str]) -> None:
    manifest, raw = make_manifest(tiny_base, labels=LABELS), np.array([1, 0, 2], np.float32)
    whole, cut = KIND.decode(manifest, raw).answer, KIND.decode(manifest, raw, top_k).answer
    assert [entry["label"] for entry in cut["scores"]] == expected
    assert cut["scores"] == whole["scores"][:top_k]


def test_equal_scores_keep_the_labels_order(tiny_base: BaseModel) -> None:
    labels = [str(number) for number in range(100)]
    answer = KIND.decode(make_manifest(tiny_base, labels=labels), np.zeros(100, np.float32)).answer
    assert [entry["label"] for entry in answer["scores"]] == labels


@given(LOGITS, st.floats(0.25, 8))
def test_temperature_divides_the_logits(tiny_base: BaseModel, raw: Floats, temperature: float) -> None:
    plain = make_manifest(tiny_base, labels=LABELS)
    warm = make_manifest(tiny_base, labels=LABELS, calibration=Calibration(temperature=temperature))
    expected = KIND.decode(plain, (raw / temperature).astype(np.float32)).outputs
    np.testing.assert_allclose(KIND.decode(warm, raw).outputs, expected, atol=1e-5)


@pytest.mark.parametrize("raw", [[1e38, 0, -1e38], [1e4, -1e4, 0]])
def test_huge_logits_are_certain_not_broken(tiny_base: BaseModel, raw: list[float]) -> None:
    outputs = KIND.decode(make_manifest(tiny_base, labels=LABELS), np.array(raw, np.float32)).outputs
    assert outputs.tolist() == [1, 0, 0]


@given(st.lists(st.sampled_from(LABELS), min_size=1))
def test_a_target_is_the_labels_number(tiny_base: BaseModel, labels: list[str]) -> None:
    targets = KIND.targets(make_manifest(tiny_base, labels=LABELS), labels)
    assert [LABELS[number] for number in targets.tolist()] == labels


def test_an_unknown_label_is_named_with_its_row(tiny_base: BaseModel) -> None:
    with pytest.raises(ValueError, match="row 2: 'mauve' is not one of the labels"):
        KIND.targets(make_manifest(tiny_base, labels=LABELS), ["red", "mauve"])


def test_the_score_is_the_share_of_right_answers() -> None:
    outputs = np.array([[2, 1], [0, 3], [5, 4], [1, 9]], np.float32)
    assert KIND.score(outputs, np.array([0, 1, 1, 1])) == 0.75


def test_the_loss_is_cross_entropy() -> None:
    outputs = torch.log(torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    expected = -(np.log(0.75) + np.log(0.5)) / 2
    assert KIND.loss(outputs, torch.tensor([1, 0])).item() == pytest.approx(expected)


def test_the_head_has_a_row_for_every_label(tiny_base: BaseModel) -> None:
    manifest = make_manifest(tiny_base, labels=LABELS)
    assert isinstance(kind_of(manifest), Classification)
    assert KIND.head_shapes(manifest, tiny_base.dims) == {"head.weight": (3, 32), "head.bias": (3,)}
