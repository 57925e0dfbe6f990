"""Answer: the passage's own words, wherever in it they stand, or none where it holds none."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.adapters.manifest import Calibration, Manifest, TokenizerSettings
from service.engine.base_model import BaseModel
from service.tasks import Floats, Label, Labelled, Prediction, Reading, Span
from service.tasks.answer import MAX_TOKENS, AnswerKind
from tests.tiny import WORDS, make_manifest, read_one

KIND = AnswerKind()
NOTHING = {"answer": None, "start": None, "end": None}


@pytest.fixture(scope="module")
def manifest(tiny_base: BaseModel) -> Manifest:
    """It always answers."""
    return make_manifest(tiny_base, kind="answer", tokenizer=TokenizerSettings(max_length=16, overlap=4))


@pytest.fixture(scope="module")
def doubting(manifest: Manifest) -> Manifest:
    """It gives no answer where none is the likelier."""
    return manifest.model_copy(update={"calibration": Calibration(none_margin=0.0)})


def even(reading: Reading) -> list[Floats]:
    """Raw outputs that know nothing."""
    return [np.zeros((len(row), 2), np.float32) for row in reading.rows]


def perfect(manifest: Manifest, reading: Reading, label: Label) -> list[Floats]:
    """Raw outputs that know the answer, made from what is trained towards."""
    raw = even(reading)
    for part, target in zip(raw, KIND.targets(manifest, reading, label), strict=True):
        part[int(target[0]), 0] = part[int(target[1]), 1] = 20
    return raw


def decode(manifest: Manifest, reading: Reading, raw: Sequence[Floats]) -> Prediction:
    prediction = KIND.decode(manifest, reading, raw)
    answer = prediction.answer
    if answer["answer"] is not None:
        assert (reading.given.text_pair or "")[answer["start"] : answer["end"]] == answer["answer"]
    assert 0 <= answer["score"] <= 1
    return prediction


def test_the_answer_is_the_likeliest_span(tiny_base: BaseModel, manifest: Manifest) -> None:
    reading = read_one(tiny_base, manifest, "this", "the red cat, very small")
    [raw] = even(reading)  # [CLS] this [SEP] the red cat , very small [SEP]
    raw[4, 0], raw[5, 1] = 8, 9
    answer, outputs = decode(manifest, reading, [raw])
    assert (answer["answer"], answer["start"], answer["end"]) == ("red cat", 4, 11)
    # Of 7 tokens that count, six passage's and the one for none: e⁸/(e⁸+6) · e⁹/(e⁹+6).
    assert answer["score"] == pytest.approx(1 / ((1 + 6 * np.exp(-8)) * (1 + 6 * np.exp(-9))))
    assert outputs.shape == (2 * len(raw),)
    np.testing.assert_allclose(outputs.reshape(-1, 2).sum(axis=0), 1, rtol=1e-6)


def test_an_answer_ends_after_it_begins(tiny_base: BaseModel, manifest: Manifest) -> None:
    reading = read_one(tiny_base, manifest, "this", "the red cat is small")
    [raw] = even(reading)
    raw[6, 0], raw[4, 1] = 8, 7  # the two likeliest are the wrong way round
    raw[7, 1] = 5
    assert decode(manifest, reading, [raw]).answer["answer"] == "is small"


@pytest.mark.parametrize("token", [0, 1, 2, 9])
def test_question_and_special_tokens_are_never_answered(tiny_base: BaseModel, manifest: Manifest, token: int) -> None:
    reading = read_one(tiny_base, manifest, "this", "the red cat, very small")
    [raw] = even(reading)
    raw[token] = 50
    raw[5] = 3
    assert decode(manifest, reading, [raw]).answer["answer"] == "cat"


def test_an_answer_has_forty_tokens_at_most(tiny_base: BaseModel) -> None:
    manifest = make_manifest(tiny_base, kind="answer")
    reading = read_one(tiny_base, manifest, "this", " ".join(["good"] * 50))
    [raw] = even(reading)
    raw[3, 0], raw[3 + MAX_TOKENS, 1] = 9, 9  # one too many
    raw[3 + MAX_TOKENS - 1, 1] = 8
    assert decode(manifest, reading, [raw]).answer["answer"] == " ".join(["good"] * MAX_TOKENS)


def test_the_best_window_answers(tiny_base: BaseModel, manifest: Manifest) -> None:
    words = [*WORDS[:20], "zebra", "x"]
    reading = read_one(tiny_base, manifest, "this", " ".join(words))
    assert len(reading.rows) == 3
    raw = even(reading)
    raw[0][4], raw[2][-3] = 5, 7
    found = decode(manifest, reading, raw).answer
    assert reading.rows[2].spans is not None
    assert (found["start"], found["end"]) == tuple(reading.rows[2].spans[-3])


def test_a_window_that_is_sure_it_holds_none_gives_way(tiny_base: BaseModel, manifest: Manifest) -> None:
    reading = read_one(tiny_base, manifest, "this", " ".join(WORDS[:20]))
    raw = even(reading)
    raw[0][0] = 12  # none here, and louder than
    raw[0][5] = 8  # its best span, which is as loud as
    raw[1][5] = 8  # this one
    assert reading.rows[1].spans is not None
    assert decode(manifest, reading, raw).answer["start"] == reading.rows[1].spans[5, 0]


def test_none_is_the_answer_where_every_window_says_so(tiny_base: BaseModel, doubting: Manifest) -> None:
    reading = read_one(tiny_base, doubting, "this", " ".join(WORDS[:20]))
    raw = even(reading)
    for part in raw:
        part[0] = 9
    answer = decode(doubting, reading, raw).answer
    assert {**answer, "score": None} == {**NOTHING, "score": None}
    assert answer["score"] > 0.9
    raw[-1][4] = 10  # one window knows better
    assert decode(doubting, reading, raw).answer["answer"] is not None


@pytest.mark.parametrize(("margin", "answered"), [(None, True), (4.1, True), (3.9, False), (-100.0, False)])
def test_the_margin_says_how_much_likelier_none_must_be(
    tiny_base: BaseModel, manifest: Manifest, margin: float | None, answered: bool
) -> None:
    strict = manifest.model_copy(update={"calibration": Calibration(none_margin=margin)})
    reading = read_one(tiny_base, strict, "this", "good bad film")
    [raw] = even(reading)
    raw[0], raw[4] = 7, 5  # log-probabilities of start and end together differ by 4
    assert (decode(strict, reading, [raw]).answer["answer"] == "bad") == answered


@pytest.mark.parametrize("passage", ["film", "z", "東", "🙂", "zebra!"])
def test_a_passage_of_one_word_can_be_the_answer(tiny_base: BaseModel, manifest: Manifest, passage: str) -> None:
    reading = read_one(tiny_base, manifest, "this", passage)
    label = (Span(0, len(passage), passage),)
    assert decode(manifest, reading, perfect(manifest, reading, label)).answer["answer"] == passage


@pytest.mark.parametrize("passage", ["\u200b", "\u0301"])
def test_a_passage_without_a_token_holds_no_answer(tiny_base: BaseModel, manifest: Manifest, passage: str) -> None:
    reading = read_one(tiny_base, manifest, "this", passage)
    answer = decode(manifest, reading, even(reading)).answer
    assert answer == {**NOTHING, "score": 1.0}


def test_a_question_longer_than_half_the_room_is_cut_and_the_passage_is_not(
    tiny_base: BaseModel, manifest: Manifest
) -> None:
    passage = " ".join(WORDS[:30])
    reading = read_one(tiny_base, manifest, "why " * 50, passage)
    assert reading.truncated
    label = (Span(passage.index("again"), passage.index("again") + 5, "again"),)
    assert decode(manifest, reading, perfect(manifest, reading, label)).answer["answer"] == "again"


@given(st.data())
def test_perfect_logits_give_back_the_very_answer(
    tiny_base: BaseModel, manifest: Manifest, data: st.DataObject
) -> None:
    generator = random.Random(data.draw(st.integers(0, 10_000)))
    odd = ["good", "zebra", "café", "cafe\u0301", "東", "🙂", "x.", "(very", "42"]
    words = generator.choices(odd, k=data.draw(st.integers(1, 60)))
    first = generator.randrange(len(words))
    answer = " ".join(words[first : first + generator.randint(1, 2)])
    start = len(" ".join([*words[:first], ""]))
    reading = read_one(tiny_base, manifest, "this is", " ".join(words))
    label = (Span(start, start + len(answer), answer),)
    KIND.check_label(manifest, label)
    if any(target.tolist() != [0, 0] for target in KIND.targets(manifest, reading, label)):
        found = decode(manifest, reading, perfect(manifest, reading, label)).answer
        assert (found["answer"], found["start"], found["end"]) == (answer, start, start + len(answer))
    else:  # no window holds it whole
        assert len(tiny_base.tokenizer.encode(answer, add_special_tokens=False)) > 4  # the overlap


@given(st.integers(0), st.integers(1, 80))
def test_whatever_is_answered_is_the_passages_own(
    tiny_base: BaseModel, manifest: Manifest, seed: int, length: int
) -> None:
    generator = np.random.default_rng(seed)
    reading = read_one(
        tiny_base, manifest, "this", " ".join(generator.choice(["é", "e\u0301", "東", "🙂🙂", "film"], length))
    )
    raw = [generator.normal(0, 3, (len(row), 2)).astype(np.float32) for row in reading.rows]
    assert decode(manifest, reading, raw).answer["answer"]


def test_windows_without_the_answer_are_taught_to_say_none(tiny_base: BaseModel, manifest: Manifest) -> None:
    passage = " ".join(WORDS[:30])
    reading = read_one(tiny_base, manifest, "this", passage)
    label = (Span(0, 3, "the"), Span(4, 5, "a"))  # of several, the first is taught
    targets = [target.tolist() for target in KIND.targets(manifest, reading, label)]
    assert targets == [[3, 3], *[[0, 0]] * (len(reading.rows) - 1)]
    assert [target.tolist() for target in KIND.targets(manifest, reading, ())] == [[0, 0]] * len(reading.rows)


def test_space_around_an_answer_does_not_hide_it(tiny_base: BaseModel, manifest: Manifest) -> None:
    reading = read_one(tiny_base, manifest, "this", "the red cat, very small")
    [target] = KIND.targets(manifest, reading, (Span(3, 12, " red cat,"),))
    assert target.tolist() == [4, 6]
    [target] = KIND.targets(manifest, reading, (Span(3, 8, " red "),))
    assert target.tolist() == [4, 4]


@pytest.mark.parametrize("label", ["cat", ("cat",)])
def test_a_label_that_is_no_span_is_refused(manifest: Manifest, label: Label) -> None:
    with pytest.raises(ValueError, match="is not a list of spans"):
        KIND.check_label(manifest, label)


def test_the_loss_is_cross_entropy_over_each_rows_tokens() -> None:
    lengths = torch.tensor([4, 2])
    targets = [torch.tensor([1, 3]), torch.tensor([0, 0])]
    outputs = torch.zeros(6, 2)
    assert KIND.loss(outputs, targets, lengths).item() == pytest.approx((np.log(4) + np.log(2)) / 2)
    outputs[1, 0] = outputs[3, 1] = outputs[4] = 40
    assert KIND.loss(outputs, targets, lengths).item() == pytest.approx(0, abs=1e-6)


def test_the_losss_gradient_is_finite_and_points_to_the_target() -> None:
    outputs = torch.zeros(7, 2, requires_grad=True)
    KIND.loss(outputs, [torch.tensor([1, 3]), torch.tensor([0, 0])], torch.tensor([5, 2])).backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    assert (outputs.grad < 0).nonzero().tolist() == [[1, 0], [3, 1], [5, 0], [5, 1]]


@pytest.mark.parametrize(
    ("answer", "right", "f1", "exact"),
    [
        ("the Red Cat!", ["red cat"], 1, 1),  # case, articles and punctuation do not count
        ("red cat", ["a dog", "red, cat"], 1, 1),  # the best of several
        ("red cat", ["the cat sat"], 2 / 4, 0),
        ("cat cat", ["cat"], 2 / 3, 0),
        ("dog", ["cat"], 0, 0),
        ("the", ["an"], 1, 1),  # nothing is left of either
        ("the", ["cat"], 0, 0),
        ("theatre", ["a theatre"], 1, 1),
        ("well-known", ["well known"], 0, 0),
        (None, ["cat"], 0, 0),
        ("cat", [], 0, 0),
        (None, [], 1, 1),
    ],
)
def test_answers_are_compared_as_squad_does(
    manifest: Manifest, answer: str | None, right: list[str], f1: float, exact: float
) -> None:
    label = tuple(Span(0, len(one), one) for one in right)
    assert KIND.tally(manifest, {"answer": answer}, label) == pytest.approx((f1, exact))


def test_figures_are_means_and_one_where_all_is_right(manifest: Manifest) -> None:
    tallies = np.array([[1, 1], [0.5, 0], [0, 0]])
    assert KIND.figure(manifest, "f1", tallies) == pytest.approx(0.5)
    assert KIND.figure(manifest, "exact_match", tallies) == pytest.approx(1 / 3)
    assert KIND.figure(manifest, "f1", np.ones((3, 2))) == KIND.figure(manifest, "exact_match", np.ones((3, 2))) == 1


def test_where_every_question_has_an_answer_one_is_always_given(tiny_base: BaseModel, doubting: Manifest) -> None:
    reading = read_one(tiny_base, doubting, "this", "good bad film")
    labelled = Labelled([reading], [(Span(0, 4, "good"),)])
    assert KIND.calibrate(doubting, [even(reading)], labelled, "f1").none_margin is None


@pytest.mark.parametrize("seed", range(3))
def test_calibration_finds_the_margin_that_serves_best(tiny_base: BaseModel, manifest: Manifest, seed: int) -> None:
    generator = np.random.default_rng(seed)
    reading = read_one(tiny_base, manifest, "this", "good bad film")
    labels: list[Label] = []
    raw = []
    for _ in range(60):
        known = generator.random() < 0.5
        labels.append((Span(5, 8, "bad"),) if known else ())
        [part] = even(reading)
        part[4] = 6
        part[0] = generator.normal(2 if known else 4, 1)
        raw.append([part])
    labelled = Labelled([reading] * len(raw), labels)

    fitted = KIND.calibrate(manifest, raw, labelled, "f1")

    def figure(margin: float | None) -> float:
        one = manifest.model_copy(update={"calibration": fitted.model_copy(update={"none_margin": margin})})
        answers = [decode(one, reading, rows).answer for rows in raw]
        tallies = [KIND.tally(one, answer, label) for answer, label in zip(answers, labels, strict=True)]
        return KIND.figure(one, "f1", np.array(tallies))

    found = figure(fitted.none_margin)
    assert found > figure(None)
    assert found >= max(figure(float(margin)) for margin in np.linspace(-15, 5, 100))


@pytest.mark.parametrize("known", [True, False])
def test_calibration_may_find_that_one_answer_always_serves(
    tiny_base: BaseModel, manifest: Manifest, known: bool
) -> None:
    reading = read_one(tiny_base, manifest, "this", "good bad film")
    label: Label = (Span(5, 8, "bad"),) if known else ()
    labels: list[Label] = [(), label, label, label]
    raw = [even(reading) for _ in labels]
    for number, [part] in enumerate(raw):
        part[4] = number
    fitted = KIND.calibrate(manifest, raw, Labelled([reading] * 4, labels), "f1")
    assert fitted.none_margin is not None
    sure = manifest.model_copy(update={"calibration": fitted})
    assert [decode(sure, reading, rows).answer["answer"] is not None for rows in raw[1:]] == [known] * 3
