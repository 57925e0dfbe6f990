"""Public data sets of the shipped adapters: from the layouts they are published in to files `rootstock train` reads.

    python benchmarks/datasets.py --data FOLDER --out FOLDER

FOLDER holds one folder a data set, named as in `DATASETS`, with the files as their publishers ship them:

    sst2/       stsa.binary.{train,dev,test}        label, a space, a tokenised sentence
    trec6/      TREC.{train,test}                   COARSE:fine question, Latin-1
    banking77/  {train,test}.csv                    text,category
    sms_spam/   SMSSpamCollection                   label, tab, message; no split, so one is made here
    mrpc/       msr_paraphrase_{train,test}.txt     tab-separated, quality first, the sentences fourth and fifth
    stsb/       sts-{train,dev,test}.tsv            tab-separated, score fifth, the sentences sixth and seventh

Where no validation part is published, a tenth of the training part is set aside, by label, with a fixed seed.
"""

import argparse
import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from service.training.data import Example, split

SPLIT_SEED = 13
Parts = dict[str, list[Example]]  # train, validation, test


@dataclass(frozen=True)
class DataSet:
    """One data set and the adapter made from it."""

    folder: str
    task: str
    kind: str
    read: Callable[[Path], Parts]
    max_length: int
    source: str
    licence: str
    description: str


def _lines(path: Path, encoding: str = "utf-8-sig") -> list[str]:
    return [line for line in path.read_text(encoding=encoding).split("\n") if line.strip()]


def _untokenised(text: str) -> str:
    """Treebank tokens back to what people type, where the base's own tokenizer would see a difference."""
    return text.replace(" n't", "n't").replace("-lrb-", "(").replace("-rrb-", ")").strip()


def _sst2(folder: Path) -> Parts:
    names = {"0": "negative", "1": "positive"}

    def read(part: str) -> list[Example]:
        rows = (line.split(" ", 1) for line in _lines(folder / f"stsa.binary.{part}"))
        return [Example(_untokenised(text), None, names[label]) for label, text in rows]

    return {"train": read("train"), "validation": read("dev"), "test": read("test")}


def _trec6(folder: Path) -> Parts:
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


def _banking77(folder: Path) -> Parts:
    def read(part: str) -> list[Example]:
        with (folder / f"{part}.csv").open(encoding="utf-8", newline="") as file:
            # Two labels are spelt with a capital or a question mark; all of them read as words.
            return [
                Example(row["text"].strip(), None, row["category"].replace("_", " ").rstrip("?").lower())
                for row in csv.DictReader(file)
            ]

    return _with_validation(read("train")) | {"test": read("test")}


def _sms_spam(folder: Path) -> Parts:
    names = {"ham": "not spam", "spam": "spam"}
    rows = (line.split("\t", 1) for line in _lines(folder / "SMSSpamCollection")[1:])
    examples = [Example(text.strip(), None, names[label]) for label, text in rows]
    rest, test = split(examples, 0.2, SPLIT_SEED, stratify=True)
    return _with_validation(rest) | {"test": test}


def _mrpc(folder: Path) -> Parts:
    names = {"0": "different", "1": "paraphrase"}

    def read(part: str) -> list[Example]:
        rows = (line.split("\t") for line in _lines(folder / f"msr_paraphrase_{part}.txt")[1:])
        return [Example(row[3].strip(), row[4].strip(), names[row[0]]) for row in rows]

    return _with_validation(read("train")) | {"test": read("test")}


def _stsb(folder: Path) -> Parts:
    def read(part: str) -> list[Example]:
        rows = (line.split("\t") for line in _lines(folder / f"sts-{part}.tsv"))
        return [Example(row[5].strip(), row[6].strip(), row[4]) for row in rows]

    return {"train": read("train"), "validation": read("dev"), "test": read("test")}


def _with_validation(examples: list[Example]) -> Parts:
    train, validation = split(examples, 0.1, SPLIT_SEED, stratify=True)
    return {"train": train, "validation": validation}


DATASETS = [
    DataSet(
        "sst2", "sentiment", "classification", _sst2, 96,
        "SST-2, sentence level (Socher et al. 2013): 6,920 train, 872 dev, 1,821 test sentences",
        "adapter Apache-2.0; data: no licence stated",
        "Whether a sentence of a film review is positive or negative.",
    ),
    DataSet(
        "trec6", "question-type", "classification", _trec6, 64,
        "TREC question classification, coarse (Li and Roth 2002): 5,452 train, 500 test questions",
        "adapter Apache-2.0; data: no licence stated",
        "What a question asks for: an abbreviation, a description, an entity, a person, a location or a number.",
    ),
    DataSet(
        "banking77", "banking-intent", "classification", _banking77, 96,
        "BANKING77 (Casanueva et al. 2020): 10,003 train, 3,080 test questions",
        "adapter Apache-2.0; data CC BY 4.0",
        "What a customer of a bank wants, out of 77 intents.",
    ),
    DataSet(
        "sms_spam", "spam", "classification", _sms_spam, 128,
        "SMS Spam Collection (Almeida et al. 2011): 5,574 messages; 72 % train, 8 % validation, 20 % test, seed 13",
        "adapter Apache-2.0; data: no licence stated",
        "Whether a text message is spam.",
    ),
    DataSet(
        "mrpc", "paraphrase", "classification", _mrpc, 128,
        "Microsoft Research Paraphrase Corpus (Dolan and Brockett 2005): 4,076 train, 1,725 test pairs",
        "adapter Apache-2.0; data: Microsoft Research licence",
        "Whether two sentences say the same.",
    ),
    DataSet(
        "stsb", "similarity", "regression", _stsb, 128,
        "STS Benchmark (Cer et al. 2017): 5,749 train, 1,500 dev, 1,379 test pairs",
        "adapter Apache-2.0; scores CC BY-SA 4.0, texts each their own",
        "How alike two sentences are in meaning, from 0 (nothing in common) to 5 (the same).",
    ),
]  # fmt: skip


def write(path: Path, examples: Iterable[Example]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            pair = {} if example.text_pair is None else {"text_pair": example.text_pair}
            file.write(json.dumps({"text": example.text, **pair, "label": example.label}, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    for dataset in DATASETS:
        folder = options.out / dataset.task
        folder.mkdir(parents=True, exist_ok=True)
        parts = dataset.read(options.data / dataset.folder)
        for part, examples in parts.items():
            write(folder / f"{part}.jsonl", examples)
        print(dataset.task, {part: len(examples) for part, examples in parts.items()})


if __name__ == "__main__":
    main()
