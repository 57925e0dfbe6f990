"""The adapters that come with the project, on the real base: they fit, they are small, and they are right."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.adapters.file import read_header
from service.engine import native
from service.engine.base_model import BaseModel, load_base
from service.engine.layout import INTEGERS
from service.registry.folder import CHANGING, LOCK
from tests.adapters.forge import take_apart
from tests.api.harness import Harness, harness

STORE = Path(__file__).parents[2] / "adapters_store"
TASKS = {  # what each is at least worth on test: below that, another file was shipped than the one that was measured
    "acceptability": 0.2,  # Matthews
    "answers": 0.55,
    "assistant-intent": 0.8,
    "banking-intent": 0.9,
    "emotion": 0.7,
    "entailment": 0.5,
    "entities": 0.3,
    "offensive": 0.75,
    "paraphrase": 0.75,
    "question-type": 0.93,
    "sentiment": 0.85,
    "similarity": 0.8,
    "spam": 0.97,
    "stance": 0.6,
    "topic": 0.88,
}
MAX_BYTES = 1_500_000
MAX_SHARE = 0.036  # of the base's parameters: what the paper's adapters take of BERT-Large


def pair(text: str, other: str) -> dict[str, str]:
    return {"text": text, "text_pair": other}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, real_base: BaseModel) -> Iterator[Harness]:
    store = tmp_path_factory.mktemp("shipped") / "store"
    shutil.copytree(STORE, store)
    with harness(store, real_base) as service:
        yield service


def test_all_of_them_are_served(service: Harness) -> None:
    assert list(service.tasks()) == sorted([*TASKS, "embedding"])
    assert sorted(path.name for path in STORE.iterdir() if path.name not in (LOCK, CHANGING)) == [
        f"{task}-1.safetensors" for task in TASKS
    ]


@pytest.mark.parametrize(
    ("task", "inputs", "label"),
    [
        ("topic", "The striker scored twice as the home side won the cup final.", "sports"),
        ("topic", "Shares fell sharply after the bank cut its profit forecast.", "business"),
        ("emotion", "I can't believe they cancelled my flight again, this is outrageous!", "anger"),
        ("emotion", "Best day ever with my favourite people, so happy!", "joy"),
        ("offensive", "You are a complete idiot and everybody knows it.", "offensive"),
        ("offensive", "What a lovely garden you have there.", "not offensive"),
        ("assistant-intent", "how do you say good morning in portuguese", "translate"),
        ("assistant-intent", "who carved the faces on the mountain", "out of scope"),
        ("acceptability", "She gave her brother a book for his birthday.", "acceptable"),
        ("acceptability", "Him gave the to girl flowers a.", "unacceptable"),
        ("stance", pair("The ice is melting and we have to act now.", "climate change is a real concern"), "favor"),
        ("stance", pair("Just had pizza for lunch.", "Hillary Clinton"), "none"),
        ("sentiment", "What a wonderful, funny and moving film.", "positive"),
        ("sentiment", "A dull, lifeless mess with terrible acting.", "negative"),
        ("question-type", "Who invented the telephone?", "person"),
        ("question-type", "How many people live in Norway?", "number"),
        ("banking-intent", "I forgot my PIN and need a new one, how do I change it?", "change pin"),
        ("banking-intent", "Where is my new card? It has not arrived yet.", "card arrival"),
        ("spam", "WINNER!! You have been selected for a free prize. Call 09061701461 now to claim!", "spam"),
        ("spam", "Hey, are we still meeting for lunch at noon?", "not spam"),
        (
            "paraphrase",
            pair(
                "The company reported higher profits on Tuesday.",
                "On Tuesday, the company reported that its profits had risen.",
            ),
            "paraphrase",
        ),
        (
            "paraphrase",
            pair("The court rejected the appeal on Monday.", "Oil prices fell sharply in Asian trading."),
            "different",
        ),
    ],
)
def test_plain_examples_get_the_sensible_answer(service: Harness, task: str, inputs: Any, label: str) -> None:
    [prediction] = service.answers(task, inputs)
    assert prediction["label"] == label
    assert prediction["score"] > 0.6


def test_similarity_tells_the_same_from_the_unrelated(service: Harness) -> None:
    alike, unlike = service.answers(
        "similarity",
        [
            pair("A woman is slicing an onion.", "A woman is cutting an onion."),
            pair("A plane is taking off.", "A cat sleeps on the sofa."),
        ],
    )
    assert alike["value"] > 4
    assert unlike["value"] < 1


def test_people_and_places_are_found_where_they_stand(service: Harness) -> None:
    [prediction] = service.answers("entities", "Anna Kowalska moved from Warsaw to Lisbon in May.")
    found = [(entity["text"], entity["label"], entity["start"]) for entity in prediction["entities"]]
    assert found == [("Anna Kowalska", "person", 0), ("Warsaw", "location", 25), ("Lisbon", "location", 35)]


def test_an_answer_is_read_from_the_passage(service: Harness) -> None:
    passage = "The lighthouse at the northern cape was designed by Ingrid Solheim. It is thirty metres high."
    questions = ["Who designed the lighthouse?", "How high is the lighthouse?"]
    who, high = service.answers("answers", [{"question": question, "context": passage} for question in questions])
    assert who["answer"] == passage[who["start"] : who["end"]] == "Ingrid Solheim"
    assert high["answer"] == "thirty metres"


@pytest.fixture(scope="module", params=[None, "float32", "bfloat16", "int8", "int16"])
def at_any_precision(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    store = tmp_path_factory.mktemp("precision") / "store"
    shutil.copytree(STORE, store)
    if request.param in INTEGERS and not native.available(request.param):
        pytest.skip(f"no {request.param} on this processor")
    base = load_base() if request.param is None else load_base(dtype=request.param, serving=True)
    with harness(store, base, dtype=base.precision) as service:
        yield service


@pytest.mark.parametrize("task", TASKS)
def test_golden_examples_are_reproduced(at_any_precision: Harness, task: str) -> None:
    service, data = at_any_precision, (STORE / f"{task}-1.safetensors").read_bytes()
    manifest = read_header(data).manifest
    assert len(manifest.golden) >= 3
    response = service.put(f"again-{task}", data)
    assert response.status_code == 201, response.text
    proof = response.json()["proof"]
    assert (proof["golden"], proof["precision"]) == (len(manifest.golden), service.services.base.precision)
    assert proof["off"] <= (0.1 if proof["precision"] == "int8" else manifest.tolerance)
    assert proof["strangers"] == 3
    assert proof["change"] > 0.1


@pytest.mark.parametrize("task", TASKS)
def test_a_file_is_small_and_says_what_it_is(real_base: BaseModel, task: str) -> None:
    data = (STORE / f"{task}-1.safetensors").read_bytes()
    header, _ = take_apart(data)
    manifest = read_header(data).manifest
    assert len(data) <= MAX_BYTES
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"F16"}
    assert manifest.task == task
    assert manifest.base.fingerprint == real_base.fingerprint
    assert manifest.description
    assert manifest.licence
    assert manifest.trained is not None
    assert manifest.trained.source
    assert manifest.trained.test_value is not None
    assert TASKS[task] <= manifest.trained.test_value <= 1


def test_each_trains_a_small_share_of_the_base(service: Harness, real_base: BaseModel) -> None:
    shares = {name: task["parameters"] / real_base.parameters for name, task in service.tasks().items()}
    assert all(0 < shares[task] <= MAX_SHARE for task in TASKS)
    assert service.get("/stats")["ratio"] == pytest.approx(1 + sum(shares.values()))
