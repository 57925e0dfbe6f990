"""POST /predict/{task}: every kind, every form of input, every parameter."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from service.engine.base_model import BaseModel
from service.engine.engine import Engine, Row
from tests.adapters.forge import with_manifest
from tests.api.harness import JSON, Harness, harness
from tests.tiny import make_adapter, make_pointer, make_resident, read_one

LABELS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_base: BaseModel) -> Iterator[Harness]:
    with harness(tmp_path_factory.mktemp("store"), tiny_base) as service:
        service.upload("colour", make_adapter(tiny_base, labels=LABELS, seed=1))
        service.upload("colour", make_adapter(tiny_base, labels=LABELS, seed=2))
        service.upload("colour", make_adapter(tiny_base, labels=LABELS, seed=3), activate=False)
        service.upload("same", make_adapter(tiny_base, pair=True, seed=4))
        service.upload("grade", make_adapter(tiny_base, kind="regression", seed=5))
        service.upload("topics", make_adapter(tiny_base, kind="multilabel", labels=LABELS, seed=21))
        service.upload("cats", make_pointer(tiny_base, "cats", "tagging", "cat"))
        where = make_pointer(tiny_base, "where", "answer", "cat")
        service.upload("where", where)
        service.upload("where-if", with_manifest(where, calibration={"none_margin": 0.0}))
        yield service


def test_the_answer_says_who_gave_it(service: Harness) -> None:
    answer = service.predict("colour", "the film was good").json()
    assert answer["task"] == "colour"
    assert answer["kind"] == "classification"
    assert answer["version"] == 2
    assert answer["digest"] == service.tasks()["colour"]["digest"]
    assert answer["usage"] == {"tokens": 6, "truncated": 0}
    assert len(answer["predictions"]) == 1


def test_no_thread_is_waited_for(service: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that takes a part of a request's way waits for the interpreter anew, and the request for the thread."""
    taken = []
    for taking in ("anyio.to_thread.run_sync", "asyncio.to_thread"):
        monkeypatch.setattr(taking, lambda work, *arguments, **named: taken.append(work))
    assert service.predict("colour", "the film was good").status_code == 200
    assert not taken


def test_a_classification_has_all_labels_highest_first(service: Harness) -> None:
    [prediction] = service.answers("colour", "the film was good")
    scores = [entry["score"] for entry in prediction["scores"]]
    assert {entry["label"] for entry in prediction["scores"]} == set(LABELS)
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1)
    assert {"label": prediction["label"], "score": prediction["score"]} == prediction["scores"][0]


def test_top_k_cuts_the_scores_and_nothing_else(service: Harness) -> None:
    [whole] = service.answers("colour", "the film was good")
    assert service.answers("colour", "the film was good", top_k=2) == [whole | {"scores": whole["scores"][:2]}]
    assert service.answers("colour", "the film was good", top_k=99) == [whole]


def test_the_answer_is_the_engines(service: Harness, tiny_base: BaseModel) -> None:
    resident = make_resident(tiny_base, labels=LABELS, seed=2)
    reading = read_one(tiny_base, resident.manifest, "the film was good")
    raw = Engine(tiny_base).run([Row(row, resident) for row in reading.rows])
    expected = resident.kind.decode(resident.manifest, reading, raw)
    [prediction] = service.answers("colour", "the film was good")
    assert prediction["label"] == expected.answer["label"]
    assert prediction["score"] == pytest.approx(expected.answer["score"], abs=1e-5)


def test_a_list_is_answered_in_its_order(service: Harness) -> None:
    texts = ["good film", "the dog and the cat", "never again", "good film"]
    together = [prediction["scores"] for prediction in service.answers("colour", texts, top_k=1)]
    alone = [service.answers("colour", text, top_k=1)[0]["scores"] for text in texts]
    for one, other in zip(together, alone, strict=True):
        assert one[0]["label"] == other[0]["label"]
        assert one[0]["score"] == pytest.approx(other[0]["score"], abs=1e-4)
    assert together[0] == together[3]


def test_texts_and_objects_may_share_a_list(service: Harness) -> None:
    one, other = service.answers("colour", ["good film", {"text": "good film"}])
    _assert_near(one, other)


def _assert_near(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Equal but for rounding: on some processors torch multiplies a row otherwise by its place in a batch."""
    found, expected = ({part["label"]: part["score"] for part in each["scores"]} for each in (one, other))
    assert one["label"] == other["label"]
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_pair_is_read_as_two_texts_in_order(service: Harness) -> None:
    pairs = [{"text": "good", "text_pair": "bad"}, {"text": "bad", "text_pair": "good"}]
    one, other = service.answers("same", pairs)
    assert abs(one["score"] - other["score"]) > 1e-4
    assert service.predict("same", pairs[0]).json()["usage"]["tokens"] == 5


def test_regression_answers_one_number(service: Harness) -> None:
    answer = service.predict("grade", ["good film", "bad film"]).json()
    assert answer["kind"] == "regression"
    values = [prediction["value"] for prediction in answer["predictions"]]
    assert [set(prediction) for prediction in answer["predictions"]] == [{"value"}, {"value"}]
    assert abs(values[0] - values[1]) > 1e-4


def test_multilabel_answers_the_labels_that_reach_the_threshold(service: Harness) -> None:
    answer = service.predict("topics", ["good film", "the dog", "rain", "never again"]).json()
    assert answer["kind"] == "multilabel"
    for prediction in answer["predictions"]:
        assert set(prediction) == {"labels"}
        scores = [entry["score"] for entry in prediction["labels"]]
        assert scores == sorted(scores, reverse=True)
        assert all(score >= 0.5 for score in scores)
        assert {entry["label"] for entry in prediction["labels"]} <= set(LABELS)
    assert len({len(prediction["labels"]) for prediction in answer["predictions"]}) > 1
    same = service.answers("topics", ["good film", "the dog", "rain", "never again"], top_k=1)
    assert same == answer["predictions"]  # top_k shortens a list of scores, and every label here is an answer


@pytest.mark.parametrize("text", ["the cat, a CAT!", "🙂 cafe\u0301 naïve cat", "東京 the cat\u3000is", "the film"])
def test_tagging_answers_where_in_the_text_as_sent(service: Harness, text: str) -> None:
    answer = service.predict("cats", text).json()
    assert answer["kind"] == "tagging"
    [prediction] = answer["predictions"]
    found = [match.span() for match in re.finditer("cat", text, re.IGNORECASE)]
    assert [(one["start"], one["end"]) for one in prediction["entities"]] == found
    for one in prediction["entities"]:
        assert set(one) == {"label", "text", "start", "end", "score"}
        assert one["label"] == "found"
        assert one["text"] == text[one["start"] : one["end"]]
        assert 0.5 < one["score"] <= 1


def test_answers_come_from_the_passage(service: Harness) -> None:
    context = "🙂 the dog was not there. The Cat was, again"
    answer = service.predict("where", {"question": "who is in this place?", "context": context}).json()
    assert answer["kind"] == "answer"
    [prediction] = answer["predictions"]
    assert set(prediction) == {"answer", "start", "end", "score"}
    assert prediction["answer"] == context[prediction["start"] : prediction["end"]] == "Cat"
    assert 0.5 < prediction["score"] <= 1


@pytest.mark.parametrize("words", [100, 3000])
def test_a_long_passage_is_answered_from_its_far_end(service: Harness, words: int) -> None:
    context = "the dog was very small. " * (words // 5) + "cat"
    answer = service.predict("where", {"question": "what is it", "context": context}, truncate=False).json()
    [prediction] = answer["predictions"]
    assert prediction["answer"] == "cat"
    assert (prediction["start"], prediction["end"]) == (len(context) - 3, len(context))
    assert answer["usage"]["truncated"] == 0
    assert answer["usage"]["tokens"] > words


def test_a_question_may_have_no_answer(service: Harness) -> None:
    asked = [{"question": "what is it", "context": text} for text in ("the dog was small", "the cat was small")]
    none, one = service.answers("where-if", asked)
    assert (none["answer"], none["start"], none["end"]) == (None, None, None)
    assert 0 <= none["score"] <= 1
    assert one["answer"] == "cat"
    assert all(prediction["answer"] for prediction in service.answers("where", asked))


def test_inputs_of_one_and_of_many_rows_share_a_request(service: Harness) -> None:
    contexts = ["cat", "the dog " * 100 + "cat", "a cat", "cat " + "the dog " * 200]
    found = service.answers("where", [{"question": "what", "context": context} for context in contexts])
    assert [prediction["start"] for prediction in found] == [context.index("cat") for context in contexts]


def test_a_long_question_is_cut_and_the_cut_is_counted(service: Harness) -> None:
    answer = service.predict("where", {"question": "what is it " * 50, "context": "the cat"}).json()
    assert answer["usage"]["truncated"] == 1
    assert answer["predictions"][0]["answer"] == "cat"


def test_the_document_says_what_each_kind_answers(service: Harness) -> None:
    schema = service.get("/openapi.json")["components"]["schemas"]["PredictAnswer"]["properties"]
    told = schema["predictions"]["description"]
    for kind, task in {"classification": "colour", "regression": "grade", "embedding": "embedding"}.items():
        [prediction] = service.answers(task, "good film")
        assert f"{{{', '.join(prediction)}}} for {kind}" in told
    asked = {"question": "what", "context": "the cat"}
    for kind, task, given in (("multilabel", "topics", "a"), ("tagging", "cats", "a"), ("answer", "where", asked)):
        [prediction] = service.answers(task, given)
        assert f"{{{', '.join(prediction)}}} for {kind}" in told


def test_the_bare_base_embeds_without_any_adapter(service: Harness, tiny_base: BaseModel) -> None:
    answer = service.predict("embedding", ["good film", "good film", "rain"]).json()
    vectors = np.array([prediction["embedding"] for prediction in answer["predictions"]])
    assert (answer["version"], answer["digest"], answer["kind"]) == (0, tiny_base.fingerprint, "embedding")
    assert vectors.shape == (3, tiny_base.dims.hidden)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert np.abs(vectors[0] - vectors[2]).max() > 0.01


def test_any_version_answers_when_it_is_named(service: Harness) -> None:
    answers = {version: service.predict("colour", "good film", version=version).json() for version in (1, 2, 3)}
    assert {answer["version"] for answer in answers.values()} == {1, 2, 3}
    assert len({answer["digest"] for answer in answers.values()}) == 3
    assert len({answer["predictions"][0]["score"] for answer in answers.values()}) == 3
    assert service.predict("colour", "good film").json() == answers[2]
    assert service.predict("embedding", "good film", version=0).status_code == 200


def test_a_long_text_is_cut_and_the_cut_is_counted(service: Harness) -> None:
    answer = service.predict("colour", ["good " * 62, "good " * 63, "good " * 5000]).json()
    assert answer["usage"] == {"tokens": 3 * 64, "truncated": 2}
    _assert_near(answer["predictions"][1], answer["predictions"][2])


def test_truncate_false_still_answers_what_fits(service: Harness) -> None:
    assert service.predict("colour", "good " * 62, truncate=False).json()["usage"] == {"tokens": 64, "truncated": 0}


def test_parameters_may_be_null_or_left_out(service: Harness) -> None:
    whole = service.predict("colour", "good film").json()
    assert service.predict("colour", "good film", top_k=None, version=None).json() == whole
    assert service.http.post("/predict/colour", json={"inputs": "good film"}).json() == whole


@pytest.mark.parametrize("headers", [{"Content-Type": "application/json; charset=utf-8"}, JSON])
def test_a_json_body_is_read_with_its_media_type(service: Harness, headers: dict[str, str]) -> None:
    response = service.http.post("/predict/colour", content=b'{"inputs": "good film"}', headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize(
    "text",
    [
        "\0",
        "a\0b",
        "\u200b",
        "\U0001f642" * 100,
        "東京 ürün Ωμέγα",
        "a" * 100_000,
        "\u0301" * 1000,
        "\ufffe\uffff",
        "[CLS] [SEP] [PAD]",
        "<script>alert('x')</script>",
        "{\"inputs\": 'x'}",
    ],
)
def test_odd_text_gets_an_answer(service: Harness, text: str) -> None:
    pair, asked = {"text": text, "text_pair": text}, {"question": text, "context": text}
    whole = [(task, text) for task in ("colour", "embedding", "topics", "cats")]
    for task, given in [*whole, ("same", pair), ("where", asked), ("where-if", asked)]:
        assert len(service.answers(task, given)) == 1
