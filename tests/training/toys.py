"""Toy tasks that anyone can learn, as examples and as files."""

import csv
import random
from collections.abc import Sequence
from pathlib import Path

from service.training.data import Example
from tests.tiny import WORDS

SIGNS = {"positive": ("good", "great", "love"), "negative": ("bad", "awful", "hate")}
OTHERS = [word for word in WORDS if not any(word in signs for signs in SIGNS.values())]


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


def write_csv(path: Path, examples: Sequence[Example]) -> Path:
    pair = examples[0].text_pair is not None
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "text_pair", "label"] if pair else ["text", "label"])
        for example in examples:
            writer.writerow([example.text, example.text_pair, example.label] if pair else [example.text, example.label])
    return path
