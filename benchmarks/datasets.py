"""Public data sets of the shipped adapters: from the layouts they are published in to files `rootstock train` reads.

    python benchmarks/datasets.py --data FOLDER --out FOLDER

FOLDER holds one folder a data set, named as in `DATASETS`, with the files as their publishers ship them:

    sst2/          stsa.binary.{train,dev,test}        label, a space, a tokenised sentence
    trec6/         TREC.{train,test}                   COARSE:fine question, Latin-1
    banking77/     {train,test}.csv                    text,category
    sms_spam/      SMSSpamCollection                   label, tab, message; no split, so one is made here
    mrpc/          msr_paraphrase_{train,test}.txt     tab-separated, quality first, the sentences fourth and fifth
    stsb/          sts-{train,dev,test}.tsv            tab-separated, score fifth, the sentences sixth and seventh
    cola/          {train,val,dev}.tsv                 tab-separated, label second, the sentence fourth
    rte/           {train,val,dev}.tsv                 tab-separated, premise, hypothesis, label; val without header
    ag_news/       {train,dev,test}.csv                "text",number of the topic
    tweeteval/     {emotion,offensive}/, stance/*/     {train,val,test}_{text,labels}.txt, mapping.txt
    clinc150/      data_full.json                      lists of [text, intent], those out of scope apart
    wnut17/        wnut17train.conll, emerging.dev.conll, emerging.test.annotated     word, tab, BIO tag
    squad_subset/  {train,valid,test}.json             paragraphs with questions and answers, without their places

Where no validation part is published, a tenth of the training part is set aside, by label, with a fixed seed. Of CoLA
and RTE the test part has no labels: the development part is the test here, and `val` the validation.
"""

import argparse
import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from service.tasks import Span
from service.tasks.base import spans_of
from service.training.data import Example, split, tagged

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
    metric: str
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


def _cola(folder: Path) -> Parts:
    names = {"0": "unacceptable", "1": "acceptable"}

    def read(part: str) -> list[Example]:
        rows = (line.split("\t") for line in _lines(folder / f"{part}.tsv"))
        return [Example(row[3].strip(), None, names[row[1]]) for row in rows]

    return {"train": read("train"), "validation": read("val"), "test": read("dev")}


def _rte(folder: Path) -> Parts:
    names = {"entailment": "entailed", "not_entailment": "not entailed"}

    def read(part: str) -> list[Example]:
        rows = [line.split("\t") for line in _lines(folder / f"{part}.tsv")]
        return [Example(row[1].strip(), row[2].strip(), names[row[3].strip()]) for row in rows if row[0] != "index"]

    return {"train": read("train"), "validation": read("val"), "test": read("dev")}


def _ag_news(folder: Path) -> Parts:
    names = ["world", "sports", "business", "technology"]

    def read(part: str) -> list[Example]:
        with (folder / f"{part}.csv").open(encoding="utf-8", newline="") as file:
            return [Example(row[0].strip(), None, names[int(row[1])]) for row in csv.reader(file)]

    validation = read("dev")  # published inside the training part: taken out of it
    known = {example.text for example in validation}
    return {
        "train": [example for example in read("train") if example.text not in known],
        "validation": validation,
        "test": read("test"),
    }


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


def _emotion(folder: Path) -> Parts:
    return _tweets(folder, ["anger", "joy", "optimism", "sadness"])


def _offensive(folder: Path) -> Parts:
    return _tweets(folder, ["not offensive", "offensive"])


def _stance(folder: Path) -> Parts:
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


def _clinc150(folder: Path) -> Parts:
    data = json.loads((folder / "data_full.json").read_text(encoding="utf-8"))

    def read(part: str) -> list[Example]:
        inside = [Example(text, None, intent.replace("_", " ")) for text, intent in data[part]]
        return inside + [Example(text, None, "out of scope") for text, _ in data[f"oos_{part}"]]

    return {"train": read("train"), "validation": read("val"), "test": read("test")}


def _wnut17(folder: Path) -> Parts:
    def read(name: str) -> list[Example]:
        sentences: list[list[list[str]]] = [[]]
        for line in (folder / name).read_text(encoding="utf-8").split("\n"):
            fields = line.split("\t")
            if line.strip() and fields[0].strip():
                sentences[-1].append([fields[0].strip(), fields[1].strip()])
            elif sentences[-1]:
                sentences.append([])
        found = (tagged([word for word, _ in one], [tag for _, tag in one]) for one in sentences if one)
        return [
            Example(
                example.text, None, tuple(span._replace(label=ENTITIES[span.label]) for span in spans_of(example.label))
            )
            for example in found
        ]

    return {
        "train": read("wnut17train.conll"),
        "validation": read("emerging.dev.conll"),
        "test": read("emerging.test.annotated"),
    }


ENTITIES = {
    "corporation": "corporation",
    "creative-work": "creative work",
    "group": "group",
    "location": "location",
    "person": "person",
    "product": "product",
}


def _squad(folder: Path) -> Parts:
    def read(name: str) -> list[Example]:
        examples = []
        for paragraph in json.loads((folder / f"{name}.json").read_text(encoding="utf-8")):
            context = paragraph["context"]
            for question in paragraph["qas"]:
                text = question["answer"].strip()
                start = context.find(text)  # no place is published: the first
                if start >= 0:
                    examples.append(
                        Example(question["question"].strip(), context, (Span(start, start + len(text), text),))
                    )
        return examples

    return {"train": read("train"), "validation": read("valid"), "test": read("test")}


def _with_validation(examples: list[Example]) -> Parts:
    train, validation = split(examples, 0.1, SPLIT_SEED, stratify=True)
    return {"train": train, "validation": validation}


DATASETS = [
    DataSet(
        "sst2", "sentiment", "classification", _sst2, 96, "accuracy",
        "SST-2, sentence level (Socher et al. 2013): 6,920 train, 872 dev, 1,821 test sentences",
        "adapter Apache-2.0; data: no licence stated",
        "Whether a sentence of a film review is positive or negative.",
    ),
    DataSet(
        "trec6", "question-type", "classification", _trec6, 64, "accuracy",
        "TREC question classification, coarse (Li and Roth 2002): 5,452 train, 500 test questions",
        "adapter Apache-2.0; data: no licence stated",
        "What a question asks for: an abbreviation, a description, an entity, a person, a location or a number.",
    ),
    DataSet(
        "banking77", "banking-intent", "classification", _banking77, 96, "accuracy",
        "BANKING77 (Casanueva et al. 2020): 10,003 train, 3,080 test questions",
        "adapter Apache-2.0; data CC BY 4.0",
        "What a customer of a bank wants, out of 77 intents.",
    ),
    DataSet(
        "sms_spam", "spam", "classification", _sms_spam, 128, "accuracy",
        "SMS Spam Collection (Almeida et al. 2011): 5,574 messages; 72 % train, 8 % validation, 20 % test, seed 13",
        "adapter Apache-2.0; data: no licence stated",
        "Whether a text message is spam.",
    ),
    DataSet(
        "mrpc", "paraphrase", "classification", _mrpc, 128, "accuracy",
        "Microsoft Research Paraphrase Corpus (Dolan and Brockett 2005): 4,076 train, 1,725 test pairs",
        "adapter Apache-2.0; data: Microsoft Research licence",
        "Whether two sentences say the same.",
    ),
    DataSet(
        "stsb", "similarity", "regression", _stsb, 128, "spearman",
        "STS Benchmark (Cer et al. 2017): 5,749 train, 1,500 dev, 1,379 test pairs",
        "adapter Apache-2.0; scores CC BY-SA 4.0, texts each their own",
        "How alike two sentences are in meaning, from 0 (nothing in common) to 5 (the same).",
    ),
    DataSet(
        "cola", "acceptability", "classification", _cola, 64, "matthews",
        "CoLA (Warstadt et al. 2019): 7,250 train, 1,301 validation; measured on its 1,043 dev sentences",
        "adapter Apache-2.0; data: no licence stated",
        "Whether an English sentence is grammatical.",
    ),
    DataSet(
        "rte", "entailment", "classification", _rte, 256, "accuracy",
        "RTE of GLUE (Wang et al. 2019): 2,127 train, 363 validation; measured on its 277 dev pairs",
        "adapter Apache-2.0; data: no licence stated",
        "Whether the first text implies the second.",
    ),
    DataSet(
        "ag_news", "topic", "classification", _ag_news, 128, "accuracy",
        "AG News, a part (Zhang et al. 2015): 4,000 train, 1,000 validation, 1,000 test texts",
        "adapter Apache-2.0; data: for non-commercial use",
        "The topic of a piece of news: world, sports, business or technology.",
    ),
    DataSet(
        "tweeteval/emotion", "emotion", "classification", _emotion, 96, "macro_f1",
        "TweetEval, emotion (Barbieri et al. 2020; Mohammad et al. 2018): 3,257 train, 374 validation, 1,421 test",
        "adapter Apache-2.0; data: the tasks' own terms",
        "The emotion of a short message: anger, joy, optimism or sadness.",
    ),
    DataSet(
        "tweeteval/offensive", "offensive", "classification", _offensive, 96, "macro_f1",
        "TweetEval, offensive (Barbieri et al. 2020; Zampieri et al. 2019): 11,916 train, 1,324 validation, 860 test",
        "adapter Apache-2.0; data: the tasks' own terms",
        "Whether a short message is offensive.",
    ),
    DataSet(
        "clinc150", "assistant-intent", "classification", _clinc150, 64, "accuracy",
        "CLINC150 (Larson et al. 2019), full, with out of scope: 15,100 train, 3,100 validation, 5,500 test",
        "adapter Apache-2.0; data CC BY 3.0",
        "What is asked of an assistant, out of 150 intents, or that it is out of scope.",
    ),
    DataSet(
        "tweeteval/stance", "stance", "classification", _stance, 96, "macro_f1",
        "TweetEval, stance (Barbieri et al. 2020; Mohammad et al. 2016), five targets: 2,620 train, 294 validation, "
        "1,249 test",
        "adapter Apache-2.0; data: the tasks' own terms",
        "Whether a message is for or against a target, or neither; the target is the second text.",
    ),
    DataSet(
        "wnut17", "entities", "tagging", _wnut17, 128, "f1",
        "WNUT 2017, emerging entities (Derczynski et al. 2017): 3,394 train, 1,009 validation, 1,287 test messages",
        "adapter Apache-2.0; data CC BY 4.0",
        "Names of persons, places, groups, firms, products and works in short messages.",
    ),
    DataSet(
        "squad_subset", "answers", "answer", _squad, 256, "f1",
        "SQuAD 1.1, a part (Rajpurkar et al. 2016): 4,000 train, 500 validation, 500 test questions",
        "adapter Apache-2.0; data CC BY-SA 4.0",
        "The words of a passage that answer a question.",
    ),
]  # fmt: skip


def write(path: Path, examples: Iterable[Example]) -> None:
    """JSON lines, as `rootstock train` reads them."""
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(_columns(example), ensure_ascii=False) + "\n")


def _columns(example: Example) -> dict[str, object]:
    pair = {} if example.text_pair is None else {"text_pair": example.text_pair}
    if isinstance(example.label, str):
        return {"text": example.text, **pair, "label": example.label}
    spans = [part for part in example.label if isinstance(part, Span)]
    if example.text_pair is None:
        return {"text": example.text, "entities": [span._asdict() for span in spans]}
    answers = [{"text": span.label, "answer_start": span.start} for span in spans]
    return {"question": example.text, "context": example.text_pair, "answers": answers}


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
