"""Tagging: entities whose characters are those of the text as it was sent, and come back as they were taught."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.adapters.manifest import Calibration, Manifest
from service.engine.base_model import BaseModel
from service.tasks import Floats, Label, Labelled, Reading, Span
from service.tasks.tagging import IGNORED, Tagging
from tests.tiny import make_manifest, read_one

KIND = Tagging()
LABELS = ["place", "person"]
OUTSIDE, B_PLACE, I_PLACE, B_PERSON, I_PERSON = range(5)
ODD_WORDS = ["good", "zebra", "café", "cafe\u0301", "東", "🙂", "नि", "İx", "ß", "42", "film"]


@pytest.fixture(scope="module")
def manifest(tiny_base: BaseModel) -> Manifest:
    return make_manifest(tiny_base, kind="tagging", labels=LABELS)


def logits(reading: Reading, tags: dict[int, int], sure: float = 20.0) -> Floats:
    """Raw outputs that give each token of `tags` its tag, and all others none."""
    raw = np.zeros((len(reading.rows[0]), 5), np.float32)
    for token in range(len(raw)):
        raw[token, tags.get(token, OUTSIDE)] = sure
    return raw


def entities(manifest: Manifest, reading: Reading, raw: Floats) -> list[tuple[str, str, int, int]]:
    """(label, text, start, end) of what was found."""
    found = KIND.decode(manifest, reading, [raw]).answer["entities"]
    return [(one["label"], one["text"], one["start"], one["end"]) for one in found]


def test_neighbouring_words_that_go_on_are_one_entity(tiny_base: BaseModel, manifest: Manifest) -> None:
    reading = read_one(tiny_base, manifest, "the cat is in red  world, again")
    tags = {2: B_PERSON, 5: B_PLACE, 6: I_PLACE}  # token 0 is the special one
    assert entities(manifest, reading, logits(reading, tags)) == [
        ("person", "cat", 4, 7),
        ("place", "red  world", 14, 24),
    ]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({1: B_PLACE, 2: B_PLACE}, ["good", "bad"]),  # begins anew
        ({1: B_PLACE, 2: I_PERSON}, ["good", "bad"]),  # goes on as another label
        ({1: I_PLACE, 2: I_PLACE}, ["good bad"]),  # goes on from nothing
        ({1: B_PLACE, 3: I_PLACE}, ["good", "film"]),  # a word lies between
        ({1: B_PLACE, 2: I_PLACE, 3: I_PLACE}, ["good bad film"]),
        ({0: B_PLACE, 4: B_PLACE}, []),  # special tokens are no words
        ({}, []),
    ],
)
def test_entities_begin_and_end_where_their_tags_say(
    tiny_base: BaseModel, manifest: Manifest, tags: dict[int, int], expected: list[str]
) -> None:
    reading = read_one(tiny_base, manifest, "good bad film")
    assert [text for _, text, _, _ in entities(manifest, reading, logits(reading, tags))] == expected


def test_a_word_in_pieces_is_read_at_its_first(tiny_base: BaseModel, manifest: Manifest) -> None:
    reading = read_one(tiny_base, manifest, "a zebra ran")
    assert entities(manifest, reading, logits(reading, {2: B_PERSON, 3: B_PLACE})) == [("person", "zebra", 2, 7)]


def test_an_entitys_score_is_the_mean_of_its_words(tiny_base: BaseModel, manifest: Manifest) -> None:
    reading = read_one(tiny_base, manifest, "good bad film")
    raw = np.log(np.array([[0.96, 0.01, 0.01, 0.01, 0.01]] * 5, np.float32))
    raw[1] = np.log(np.array([0.1, 0.6, 0.1, 0.1, 0.1]))
    raw[2] = np.log(np.array([0.05, 0.05, 0.8, 0.05, 0.05]))
    answer, outputs = KIND.decode(manifest, reading, [raw])
    assert [one["score"] for one in answer["entities"]] == [pytest.approx(0.7)]
    np.testing.assert_allclose(outputs.reshape(5, 5), np.exp(raw), rtol=1e-5)


def test_temperature_divides_the_logits(tiny_base: BaseModel, manifest: Manifest) -> None:
    reading = read_one(tiny_base, manifest, "good")
    warm = manifest.model_copy(update={"calibration": Calibration(temperature=2)})
    raw = logits(reading, {1: B_PLACE})
    half = KIND.decode(manifest, reading, [raw / np.float32(2)]).outputs
    np.testing.assert_allclose(KIND.decode(warm, reading, [raw]).outputs, half)


@given(st.data())
def test_perfect_logits_give_back_exactly_the_spans(
    tiny_base: BaseModel, manifest: Manifest, data: st.DataObject
) -> None:
    text, spans = data.draw(labelled_texts())
    reading = read_one(tiny_base, manifest, text)
    KIND.check_label(manifest, spans)
    [target] = KIND.targets(manifest, reading, spans)
    raw = torch.nn.functional.one_hot(target.clamp(min=0), 5).float().numpy() * 9
    answer = KIND.decode(manifest, reading, [raw]).answer
    assert [Span(one["start"], one["end"], one["label"]) for one in answer["entities"]] == list(spans)
    for one in answer["entities"]:
        assert text[one["start"] : one["end"]] == one["text"]
    tally = np.array([KIND.tally(manifest, answer, spans)], float)
    assert KIND.figure(manifest, "f1", tally) == bool(spans)


@given(
    st.lists(st.sampled_from([*ODD_WORDS, " ", "\u200b", "!", "👩\u200d👧"]), max_size=20).map("".join), st.integers(0)
)
def test_whatever_is_found_is_the_texts_own(tiny_base: BaseModel, manifest: Manifest, text: str, seed: int) -> None:
    reading = read_one(tiny_base, manifest, text)
    raw = np.random.default_rng(seed).normal(size=(len(reading.rows[0]), 5)).astype(np.float32)
    last = 0
    for one in KIND.decode(manifest, reading, [raw]).answer["entities"]:
        assert last <= one["start"] < one["end"] <= len(text)
        assert text[one["start"] : one["end"]] == one["text"]
        assert one["label"] in LABELS
        assert 0.2 <= one["score"] <= 1
        last = one["end"]


def test_only_first_tokens_of_words_are_trained(tiny_base: BaseModel, manifest: Manifest) -> None:
    reading = read_one(tiny_base, manifest, "the zebra")
    [target] = KIND.targets(manifest, reading, (Span(4, 9, "person"),))
    assert target.tolist() == [IGNORED, OUTSIDE, B_PERSON, *[IGNORED] * 4, IGNORED]


def test_an_entity_that_was_cut_off_is_not_trained_but_counts_as_missed(
    tiny_base: BaseModel, manifest: Manifest
) -> None:
    text = "good " * 100
    reading, label = read_one(tiny_base, manifest, text), (Span(495, 499, "place"),)
    assert reading.truncated
    [target] = KIND.targets(manifest, reading, label)
    assert set(target.tolist()) == {IGNORED, OUTSIDE}
    answer = KIND.decode(manifest, reading, [logits(reading, {})]).answer
    assert KIND.tally(manifest, answer, label) == [0, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("label", "cause"),
    [
        ("place", "'place' is not a list of spans"),
        (("place",), "is not a list of spans"),
        ((Span(0, 1, "river"),), "'river' is not one of the labels place, person"),
    ],
)
def test_a_label_that_is_none_of_the_tasks_is_named(manifest: Manifest, label: Label, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        KIND.check_label(manifest, label)


def test_the_loss_is_cross_entropy_over_words(tiny_base: BaseModel, manifest: Manifest) -> None:
    readings = [read_one(tiny_base, manifest, text) for text in ("good zebra", "cat")]
    labels: list[Label] = [(Span(0, 4, "place"),), ()]
    targets = [KIND.targets(manifest, *one)[0] for one in zip(readings, labels, strict=True)]
    lengths = torch.tensor([len(reading.rows[0]) for reading in readings])
    even = torch.zeros(int(lengths.sum()), 5)
    assert KIND.loss(even, targets, lengths).item() == pytest.approx(np.log(5))
    sure = torch.zeros_like(even)
    sure[1, B_PLACE] = 50.0
    assert KIND.loss(sure, targets, lengths).item() == pytest.approx(np.log(5) * 2 / 3)  # one word of three is sure
    sure[3:7] = torch.tensor([0, 0, 0, 0, 50.0])  # the rest of "zebra" may say what it likes
    assert KIND.loss(sure, targets, lengths).item() == pytest.approx(np.log(5) * 2 / 3)


def test_an_entity_counts_with_its_label_and_both_its_ends(manifest: Manifest) -> None:
    right = (Span(0, 4, "place"), Span(5, 9, "person"), Span(10, 14, "place"))
    found = [Span(0, 4, "place"), Span(5, 9, "place"), Span(10, 13, "place")]
    answer = {"entities": [{"start": one.start, "end": one.end, "label": one.label} for one in found]}
    tallies = np.array([KIND.tally(manifest, answer, right), KIND.tally(manifest, {"entities": []}, ())], float)
    assert tallies[0].tolist() == [1, 0, 2, 0, 1, 1]
    assert KIND.figure(manifest, "f1", tallies) == pytest.approx(2 / (2 + 2 + 2))
    assert KIND.counts(manifest, tallies) == {"place": (1, 2, 1), "person": (0, 0, 1)}


def test_calibration_finds_the_temperature(tiny_base: BaseModel, manifest: Manifest) -> None:
    generator = np.random.default_rng(0)
    reading = read_one(tiny_base, manifest, "good bad film cat dog")
    tags = [OUTSIDE, B_PLACE, B_PERSON]  # any of these may follow any other
    raw, labels = [], []
    for _ in range(600):
        known = np.full((7, 5), -30, np.float32)
        known[:, tags] = generator.normal(0, 1.5, (7, 3))
        drawn = (known[1:6, tags] + generator.gumbel(size=(5, 3))).argmax(axis=1)  # as the softmax says
        raw.append([known * np.float32(2.5)])
        words = [Span(int(s), int(e), "") for s, e in [(0, 4), (5, 8), (9, 13), (14, 17), (18, 21)]]
        labels.append(
            tuple(word._replace(label=LABELS[tag - 1]) for word, tag in zip(words, drawn, strict=True) if tag)
        )
    found = KIND.calibrate(manifest, raw, Labelled([reading] * len(raw), labels), "f1")
    assert found.temperature == pytest.approx(2.5, rel=0.1)


@st.composite
def labelled_texts(draw: st.DrawFn) -> tuple[str, tuple[Span, ...]]:
    """Odd words with spans on whole ones, some of them touching."""
    words = draw(st.lists(st.sampled_from(ODD_WORDS), min_size=1, max_size=9))
    gaps = [draw(st.sampled_from([" ", "  ", "\t", " \u200b "])) for _ in words]
    cuts = sorted(draw(st.sets(st.integers(0, len(words)))) | {0, len(words)})
    generator = random.Random(len(cuts))
    starts, text = [], ""
    for word, gap in zip(words, gaps, strict=True):
        starts.append(len(text))
        text += word + gap
    spans = []
    for first, after in pairwise(cuts):
        if generator.random() < 0.7:
            spans.append(Span(starts[first], starts[after - 1] + len(words[after - 1]), generator.choice(LABELS)))
    return text, tuple(spans)
