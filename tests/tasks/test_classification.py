"""Classification: scores that sum to one, the highest first, and labels that map to themselves."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.adapters.manifest import Calibration, Manifest
from service.engine.base_model import BaseModel
from service.tasks import Floats, Label, Labelled, Prediction, kind_of
from service.tasks.classification import Classification
from tests.tiny import UNREAD, make_manifest

KIND = Classification()
LABELS = ["red", "green", "blue"]
LOGITS = st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=3).map(lambda raw: np.array(raw, np.float32))


def decode(manifest: Manifest, raw: Floats, top_k: int | None = None) -> Prediction:
    return KIND.decode(manifest, UNREAD, [raw], top_k)


@given(LOGITS)
def test_scores_are_probabilities_with_the_highest_first(tiny_base: BaseModel, raw: Floats) -> None:
    answer, outputs = decode(make_manifest(tiny_base, labels=LABELS), raw)
    scores = [entry["score"] for entry in answer["scores"]]
    assert sum(scores) == pytest.approx(1)
    assert scores == sorted(scores, reverse=True)
    assert {entry["label"] for entry in answer["scores"]} == set(LABELS)
    assert raw[LABELS.index(answer["label"])] == pytest.approx(raw.max(), abs=1e-5)  # closer ones share a score
    assert answer["score"] == scores[0]
    by_label = {entry["label"]: entry["score"] for entry in answer["scores"]}
    assert outputs.tolist() == [by_label[label] for label in LABELS]  # golden outputs keep the labels' order


def test_scores_are_the_softmax(tiny_base: BaseModel) -> None:
    _, outputs = decode(make_manifest(tiny_base, labels=LABELS), np.log(np.array([1, 2, 5], np.float32)))
    np.testing.assert_allclose(outputs, [0.125, 0.25, 0.625], rtol=1e-6)


@pytest.mark.parametrize(("top_k", "expected"), [(1, ["blue"]), (2, ["blue", "red"]), (9, ["blue", "red", "green"])])
def test_top_k_cuts_the_list_and_not_the_scores(tiny_base: BaseModel, top_k: int, expected: list[str]) -> None:
    manifest, raw = make_manifest(tiny_base, labels=LABELS), np.array([1, 0, 2], np.float32)
    whole, cut = decode(manifest, raw).answer, decode(manifest, raw, top_k).answer
    assert [entry["label"] for entry in cut["scores"]] == expected
    assert cut["scores"] == whole["scores"][:top_k]


def test_equal_scores_keep_the_labels_order(tiny_base: BaseModel) -> None:
    labels = [str(number) for number in range(100)]
    answer = decode(make_manifest(tiny_base, labels=labels), np.zeros(100, np.float32)).answer
    assert [entry["label"] for entry in answer["scores"]] == labels


@given(LOGITS, st.floats(0.25, 8))
def test_temperature_divides_the_logits(tiny_base: BaseModel, raw: Floats, temperature: float) -> None:
    plain = make_manifest(tiny_base, labels=LABELS)
    warm = make_manifest(tiny_base, labels=LABELS, calibration=Calibration(temperature=temperature))
    expected = decode(plain, (raw / temperature).astype(np.float32)).outputs
    np.testing.assert_allclose(decode(warm, raw).outputs, expected, atol=1e-5)


@pytest.mark.parametrize("raw", [[1e38, 0, -1e38], [1e4, -1e4, 0]])
def test_huge_logits_are_certain_not_broken(tiny_base: BaseModel, raw: list[float]) -> None:
    outputs = decode(make_manifest(tiny_base, labels=LABELS), np.array(raw, np.float32)).outputs
    assert outputs.tolist() == [1, 0, 0]


@pytest.mark.parametrize("label", LABELS)
def test_a_target_is_the_labels_number(tiny_base: BaseModel, label: str) -> None:
    manifest = make_manifest(tiny_base, labels=LABELS)
    KIND.check_label(manifest, label)
    [target] = KIND.targets(manifest, UNREAD, label)
    assert LABELS[int(target)] == label


@pytest.mark.parametrize(
    ("label", "cause"),
    [("mauve", "'mauve' is not one of the labels red, green, blue"), (("red", "blue"), "is not one label")],
)
def test_a_label_that_is_none_of_the_tasks_is_named(tiny_base: BaseModel, label: Label, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        KIND.check_label(make_manifest(tiny_base, labels=LABELS), label)


def test_of_many_labels_an_error_names_the_first_ten(tiny_base: BaseModel) -> None:
    with pytest.raises(ValueError, match=r"not one of the labels 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …$"):
        KIND.check_label(make_manifest(tiny_base, labels=[str(number) for number in range(11)]), "x")


def test_the_loss_is_cross_entropy() -> None:
    outputs = torch.log(torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    expected = -(np.log(0.75) + np.log(0.5)) / 2
    found = KIND.loss(outputs, [torch.tensor(1), torch.tensor(0)], torch.tensor([3, 9]))
    assert found.item() == pytest.approx(expected)


def test_answers_are_measured_against_labels(tiny_base: BaseModel) -> None:
    manifest = make_manifest(tiny_base, labels=LABELS)
    pairs = [("red", "red"), ("red", "green"), ("green", "green"), ("blue", "blue"), ("blue", "mauve")]
    tallies = np.array([KIND.tally(manifest, {"label": found}, right) for right, found in pairs], float)
    assert KIND.figure(manifest, "accuracy", tallies) == pytest.approx(3 / 5)
    assert KIND.figure(manifest, "macro_f1", tallies) == pytest.approx(2 / 3)  # each label's: 2·1 / (2·1 + 1)
    assert KIND.counts(manifest, tallies) == {"red": (1, 0, 1), "green": (1, 1, 0), "blue": (1, 0, 1)}


@pytest.mark.parametrize("metric", KIND.metrics)
def test_perfect_answers_are_worth_one(tiny_base: BaseModel, metric: str) -> None:
    manifest = make_manifest(tiny_base, labels=LABELS)
    tallies = np.array([KIND.tally(manifest, {"label": label}, label) for label in ["red", "blue", "red"]], float)
    assert KIND.figure(manifest, metric, tallies) == pytest.approx(1)


def test_calibration_makes_scores_honest_and_changes_no_answer(tiny_base: BaseModel) -> None:
    manifest = make_manifest(tiny_base, labels=LABELS)
    raw, right = drawn(rows=3000, width=3)
    sharp = [[row * 4] for row in raw]
    found = KIND.calibrate(manifest, sharp, Labelled([UNREAD] * len(sharp), [LABELS[i] for i in right]), "accuracy")
    assert found.temperature == pytest.approx(4, rel=0.1)
    assert found == manifest.calibration.model_copy(update={"temperature": found.temperature})
    honest = manifest.model_copy(update={"calibration": found})
    for row in sharp[:20]:
        assert decode(honest, row[0]).answer["label"] == decode(manifest, row[0]).answer["label"]


def drawn(rows: int, width: int) -> tuple[Floats, list[int]]:
    """Logits, and labels drawn with just the probabilities that these say."""
    generator = np.random.default_rng(0)
    raw = generator.normal(0, 1.5, (rows, width)).astype(np.float32)
    return raw, (raw + generator.gumbel(size=raw.shape)).argmax(axis=1).tolist()


def test_the_head_has_a_row_for_every_label(tiny_base: BaseModel) -> None:
    manifest = make_manifest(tiny_base, labels=LABELS)
    assert isinstance(kind_of(manifest), Classification)
    assert KIND.head_shapes(manifest, tiny_base.dims) == {"head.weight": (3, 32), "head.bias": (3,)}
