"""How the publishers of the data sets lay them out: from their files to examples, as docs/experiment-data.md says.

Where no validation part is published, a tenth of the training part is set aside, by label, with a fixed seed. Of CoLA
and RTE the test part has no labels: the development part is the test here, and `val` the validation.
"""

import csv
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from copies import Parts, each_once
from service.adapters.manifest import KindName
from service.tasks import Label
from service.tasks.base import spans_of
from service.training.data import Example, read_examples, split

SPLIT_SEED = 13
ENTITIES = {"creative-work": "creative work"}  # labels that do not read as words


def _lines(path: Path, encoding: str = "utf-8-sig") -> list[str]:
    return [line for line in path.read_text(encoding=encoding).split("\n") if line.strip()]


def _untokenised(text: str) -> str:
    """Treebank tokens back to what people type, where the base's own tokenizer would see a difference."""
    return text.replace(" n't", "n't").replace("-lrb-", "(").replace("-rrb-", ")").strip()


def sst2(folder: Path) -> Parts:
    names = {"0": "negative", "1": "positive"}

    def read(part: str) -> list[Example]:
        rows = (line.split(" ", 1) for line in _lines(folder / f"stsa.binary.{part}"))
        return [Example(_untokenised(text), None, names[label]) for label, text in rows]

    return {"train": read("train"), "validation": read("dev"), "test": read("test")}


def trec6(folder: Path) -> Parts:
    names = {
        "ABBR": "abbreviation",
        "DESC": "description",
        "ENTY": "entity",
        "HUM": "person",
        "LOC": "location",
        "NUM": "number",
    }

    def read(part: str) -> list[Example]:
        rows = (line.split(" ", 1) for line in _lines(folder / f"TREC.{part}", "latin-1"))
        return [Example(_untokenised(text), None, names[label.split(":")[0]]) for label, text in rows]

    return _with_validation(read("train")) | {"test": read("test")}


def banking77(folder: Path) -> Parts:
    def read(part: str) -> list[Example]:
        with (folder / f"{part}.csv").open(encoding="utf-8", newline="") as file:
            # Two labels are spelt with a capital or a question mark; all of them read as words.
            return [
                Example(row["text"].strip(), None, row["category"].replace("_", " ").rstrip("?").lower())
                for row in csv.DictReader(file)
            ]

    return _with_validation(read("train")) | {"test": read("test")}


def sms_spam(folder: Path) -> Parts:
    names = {"ham": "not spam", "spam": "spam"}
    rows = (line.split("\t", 1) for line in _lines(folder / "SMSSpamCollection")[1:])
    examples = each_once(Example(text.strip(), None, names[label]) for label, text in rows)
    rest, test = split(examples, 0.2, SPLIT_SEED, stratify=True)
    return _with_validation(rest) | {"test": test}


def mrpc(folder: Path) -> Parts:
    names = {"0": "different", "1": "paraphrase"}

    def read(part: str) -> list[Example]:
        rows = (line.split("\t") for line in _lines(folder / f"msr_paraphrase_{part}.txt")[1:])
        return [Example(row[3].strip(), row[4].strip(), names[row[0]]) for row in rows]

    return _with_validation(read("train")) | {"test": read("test")}


def stsb(folder: Path) -> Parts:
    def read(part: str) -> list[Example]:
        rows = (line.split("\t") for line in _lines(folder / f"sts-{part}.tsv"))
        return [Example(row[5].strip(), row[6].strip(), row[4]) for row in rows]

    return {"train": read("train"), "validation": read("dev"), "test": read("test")}


def cola(folder: Path) -> Parts:
    names = {"0": "unacceptable", "1": "acceptable"}

    def read(part: str) -> list[Example]:
        rows = (line.split("\t") for line in _lines(folder / f"{part}.tsv"))
        return [Example(row[3].strip(), None, names[row[1]]) for row in rows]

    return {"train": read("train"), "validation": read("val"), "test": read("dev")}


def rte(folder: Path) -> Parts:
    names = {"entailment": "entailed", "not_entailment": "not entailed"}

    def read(part: str) -> list[Example]:
        rows = [line.split("\t") for line in _lines(folder / f"{part}.tsv")]
        return [Example(row[1].strip(), row[2].strip(), names[row[3].strip()]) for row in rows if row[0] != "index"]

    return {"train": read("train"), "validation": read("val"), "test": read("dev")}


def ag_news(folder: Path) -> Parts:
    names = ["world", "sports", "business", "technology"]

    def read(part: str) -> list[Example]:
        with (folder / f"{part}.csv").open(encoding="utf-8", newline="") as file:
            return [Example(row[0].strip(), None, names[int(row[1])]) for row in csv.reader(file)]

    return {"train": read("train"), "validation": read("dev"), "test": read("test")}


def _tweets(folder: Path, names: list[str], target: str | None = None) -> Parts:
    def read(part: str) -> list[Example]:
        texts = (folder / f"{part}_text.txt").read_text(encoding="utf-8").split("\n")
        labels = (folder / f"{part}_labels.txt").read_text(encoding="utf-8").split("\n")
        return [
            Example(text.strip(), target, names[int(label)])
            for text, label in zip(texts, labels, strict=False)
            if label.strip() and text.strip()
        ]

    return {"train": read("train"), "validation": read("val"), "test": read("test")}


def emotion(folder: Path) -> Parts:
    return _tweets(folder, ["anger", "joy", "optimism", "sadness"])


def offensive(folder: Path) -> Parts:
    return _tweets(folder, ["not offensive", "offensive"])


def stance(folder: Path) -> Parts:
    """One task for all targets: the target is the second text."""
    targets = {
        "abortion": "legalisation of abortion",
        "atheism": "atheism",
        "climate": "climate change is a real concern",
        "feminist": "feminist movement",
        "hillary": "Hillary Clinton",
    }
    found = [_tweets(folder / name, ["none", "against", "favor"], target) for name, target in targets.items()]
    return {part: [example for parts in found for example in parts[part]] for part in ("train", "validation", "test")}


def clinc150(folder: Path) -> Parts:
    data = json.loads((folder / "data_full.json").read_text(encoding="utf-8"))

    def read(part: str) -> list[Example]:
        inside = [Example(text, None, intent.replace("_", " ")) for text, intent in data[part]]
        return inside + [Example(text, None, "out of scope") for text, _ in data[f"oos_{part}"]]

    return {"train": read("train"), "validation": read("val"), "test": read("test")}


def wnut17(folder: Path) -> Parts:
    def read(name: str) -> list[Example]:
        examples = _by_trainer((folder / name).read_text(encoding="utf-8"), ".conll", "tagging")
        return [replace(example, label=_in_words(example.label)) for example in examples]

    return {
        "train": read("wnut17train.conll"),
        "validation": read("emerging.dev.conll"),
        "test": read("emerging.test.annotated"),
    }


def _in_words(label: Label) -> Label:
    return tuple(span._replace(label=ENTITIES.get(span.label, span.label)) for span in spans_of(label))


def squad(folder: Path) -> Parts:
    """No places of the answers are published: the trainer's own reader finds them."""

    def read(name: str) -> list[Example]:
        paragraphs = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        rows = [
            {"question": question["question"], "context": one["context"], "answers": [question["answer"].strip()]}
            for one in paragraphs
            for question in one["qas"]
        ]
        return _by_trainer("".join(json.dumps(row) + "\n" for row in rows), ".jsonl", "answer")

    return {"train": read("train"), "validation": read("valid"), "test": read("test")}


def _by_trainer(text: str, suffix: str, kind: KindName) -> list[Example]:
    """What the trainer reads from a file of this format."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{suffix}"
        path.write_text(text, encoding="utf-8")
        return read_examples(path, kind=kind)


def _with_validation(examples: list[Example]) -> Parts:
    train, validation = split(examples, 0.1, SPLIT_SEED, stratify=True)
    return {"train": train, "validation": validation}
