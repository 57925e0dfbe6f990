"""Toy tasks that anyone can learn, one for each kind, as examples and as files."""

import csv
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from service.adapters.manifest import KindName
from service.tasks import Span
from service.tasks.base import spans_of
from service.training.data import Example
from tests.tiny import WORDS

SIGNS = {"positive": ("good", "great", "love"), "negative": ("bad", "awful", "hate")}
MARKS = {"pets": ("cat", "dog"), "weather": ("rain", "sun")}
COLOURS, ANIMALS, SIZES = ("red", "blue"), ("cat", "dog"), ("small", "large")
PLACES = ("place", "world", "rain", "sun")
OTHERS = [word for word in WORDS if not any(word in signs for signs in SIGNS.values())]
PLAIN = ("the", "this", "was", "never", "and", "film")


def sentiment(count: int, seed: int = 0, pair: bool = False) -> list[Example]:
    """Three telling words beside one or two others, labels taking turns; of a pair, they stand in the second text."""
    generator = random.Random(seed)
    examples = []
    for number in range(count):
        label = ("positive", "negative")[number % 2]
        words = [*generator.choices(SIGNS[label], k=3), *generator.sample(OTHERS, generator.randint(1, 2))]
        generator.shuffle(words)
        text, other = " ".join(words), "the film"
        examples.append(Example(other, text, label) if pair else Example(text, None, label))
    return examples


def counting(count: int, seed: int = 0) -> list[Example]:
    """A number to tell: ten times the share of 'good' among five words, and a hundred more."""
    generator = random.Random(seed)
    examples = []
    for number in range(count):
        share = number % 6
        words = ["good"] * share + generator.sample(OTHERS, 5 - share)
        generator.shuffle(words)
        examples.append(Example(" ".join(words), None, str(100 + 10 * share)))
    return examples


def subjects(count: int, seed: int = 0) -> list[Example]:
    """Two labels that have nothing to do with each other: each is right half the time, both or none a quarter."""
    generator = random.Random(seed)
    examples = []
    for number in range(count):
        labels = tuple(label for place, label in enumerate(MARKS) if number >> place & 1)
        telling = [word for label in labels for word in generator.choices(MARKS[label], k=3)]
        words = [*telling, *generator.sample(PLAIN, 1)]
        generator.shuffle(words)
        examples.append(Example(" ".join(words), None, labels))
    return examples


def colours_and_animals(count: int, seed: int = 0) -> list[Example]:
    """Colours to be marked, and animals with the size before them; every fifth text has neither."""
    generator = random.Random(seed)
    examples = []
    for number in range(count):
        parts = [(word, "") for word in generator.sample(PLAIN, 3)]
        if number % 5:
            animal = f"{generator.choice(SIZES)} {generator.choice(ANIMALS)}"
            parts += [(generator.choice(COLOURS), "colour"), (animal, "animal")]
        generator.shuffle(parts)
        spans, position = [], 0
        for text, label in parts:
            if label:
                spans.append(Span(position, position + len(text), label))
            position += len(text) + 1
        examples.append(Example(" ".join(text for text, _ in parts), None, tuple(spans)))
    return examples


def where(count: int, seed: int = 0, unanswerable: bool = False) -> list[Example]:
    """The place that a passage names, to be copied from it; where `unanswerable`, every fourth names none."""
    generator = random.Random(seed)
    examples = []
    for number in range(count):
        words = generator.sample(PLAIN, 5)
        answer = generator.choice(PLACES) if number % 4 or not unanswerable else ""
        if answer:
            words.insert(generator.randint(0, 5), answer)
        context = " ".join(words)
        start = context.index(answer)
        spans = (Span(start, start + len(answer), answer),) if answer else ()
        examples.append(Example("the place", context, spans))
    return examples


TOYS: dict[KindName, Callable[[int, int], list[Example]]] = {
    "classification": sentiment,
    "multilabel": subjects,
    "regression": counting,
    "tagging": colours_and_animals,
    "answer": where,
}
LABELS: dict[KindName, tuple[str, ...]] = {
    "classification": tuple(sorted(SIGNS)),
    "multilabel": tuple(sorted(MARKS)),
    "tagging": ("animal", "colour"),
}


def write_csv(path: Path, examples: Sequence[Example]) -> Path:
    pair = examples[0].text_pair is not None
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "text_pair", "label"] if pair else ["text", "label"])
        for example in examples:
            writer.writerow([example.text, example.text_pair, example.label] if pair else [example.text, example.label])
    return path


def write_jsonl(path: Path, kind: KindName, examples: Sequence[Example]) -> Path:
    """In the form that tells the kind by itself."""
    lines = [json.dumps(as_row(kind, example), ensure_ascii=False) for example in examples]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


def as_row(kind: KindName, example: Example) -> dict[str, Any]:
    """An example as a line of JSONL."""
    if kind == "tagging":
        return {"text": example.text, "entities": [span._asdict() for span in spans_of(example.label)]}
    if kind == "answer":
        answers = [{"text": label, "answer_start": start} for start, _, label in spans_of(example.label)]
        return {"question": example.text, "context": example.text_pair, "answers": answers}
    label: Any = example.label if isinstance(example.label, str) else list(example.label)
    row = {"text": example.text, "label": float(label) if kind == "regression" else label}
    return row if example.text_pair is None else row | {"text_pair": example.text_pair}
