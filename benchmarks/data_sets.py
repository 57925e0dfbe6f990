"""Public data sets of the shipped adapters: from the layouts they are published in to files `rootstock train` reads.

    python benchmarks/data_sets.py --data FOLDER --out OUT

FOLDER holds one folder a data set, with the files as their publishers ship them: docs/experiment-data.md lists them.
OUT gets a folder a task with train.jsonl, validation.jsonl and test.jsonl. What stands in a later one of the three is
not in an earlier one; `rows.json` says how many rows are left, and how many were copies. The same files give the same
bytes.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import layouts
from copies import Parts, Rows, without_copies
from service.tasks import Span
from service.training.data import Example


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


DATASETS = [
    DataSet(
        "sst2", "sentiment", "classification", layouts.sst2, 96, "accuracy",
        "SST-2, sentence level (Socher et al. 2013): 6,920 train, 872 dev, 1,821 test sentences",
        "adapter Apache-2.0; data: no licence stated",
        "Whether a sentence of a film review is positive or negative.",
    ),
    DataSet(
        "trec6", "question-type", "classification", layouts.trec6, 64, "accuracy",
        "TREC question classification, coarse (Li and Roth 2002): 5,452 train, 500 test questions",
        "adapter Apache-2.0; data: no licence stated",
        "What a question asks for: an abbreviation, a description, an entity, a person, a location or a number.",
    ),
    DataSet(
        "banking77", "banking-intent", "classification", layouts.banking77, 96, "accuracy",
        "BANKING77 (Casanueva et al. 2020): 10,003 train, 3,080 test questions",
        "adapter Apache-2.0; data CC BY 4.0",
        "What a customer of a bank wants, out of 77 intents.",
    ),
    DataSet(
        "sms_spam", "spam", "classification", layouts.sms_spam, 128, "accuracy",
        "SMS Spam Collection (Almeida et al. 2011): 5,574 messages, each once; 72 % train, 8 % validation, 20 % test, "
        "seed 13",
        "adapter Apache-2.0; data: no licence stated",
        "Whether a text message is spam.",
    ),
    DataSet(
        "mrpc", "paraphrase", "classification", layouts.mrpc, 128, "accuracy",
        "Microsoft Research Paraphrase Corpus (Dolan and Brockett 2005): 4,076 train, 1,725 test pairs",
        "adapter Apache-2.0; data: Microsoft Research licence",
        "Whether two sentences say the same.",
    ),
    DataSet(
        "stsb", "similarity", "regression", layouts.stsb, 128, "spearman",
        "STS Benchmark (Cer et al. 2017): 5,749 train, 1,500 dev, 1,379 test pairs",
        "adapter Apache-2.0; scores CC BY-SA 4.0, texts each their own",
        "How alike two sentences are in meaning, from 0 (nothing in common) to 5 (the same).",
    ),
    DataSet(
        "cola", "acceptability", "classification", layouts.cola, 64, "matthews",
        "CoLA (Warstadt et al. 2019): 7,250 train, 1,301 validation; measured on its 1,043 dev sentences",
        "adapter Apache-2.0; data: no licence stated",
        "Whether an English sentence is grammatical.",
    ),
    DataSet(
        "rte", "entailment", "classification", layouts.rte, 256, "accuracy",
        "RTE of GLUE (Wang et al. 2019): 2,127 train, 363 validation; measured on its 277 dev pairs",
        "adapter Apache-2.0; data: no licence stated",
        "Whether the first text implies the second.",
    ),
    DataSet(
        "ag_news", "topic", "classification", layouts.ag_news, 128, "accuracy",
        "AG News, a part (Zhang et al. 2015): 4,000 train, 1,000 validation, 1,000 test texts",
        "adapter Apache-2.0; data: for non-commercial use",
        "The topic of a piece of news: world, sports, business or technology.",
    ),
    DataSet(
        "tweeteval/emotion", "emotion", "classification", layouts.emotion, 96, "macro_f1",
        "TweetEval, emotion (Barbieri et al. 2020; Mohammad et al. 2018): 3,257 train, 374 validation, 1,421 test",
        "adapter Apache-2.0; data: the tasks' own terms",
        "The emotion of a short message: anger, joy, optimism or sadness.",
    ),
    DataSet(
        "tweeteval/offensive", "offensive", "classification", layouts.offensive, 96, "macro_f1",
        "TweetEval, offensive (Barbieri et al. 2020; Zampieri et al. 2019): 11,916 train, 1,324 validation, 860 test",
        "adapter Apache-2.0; data: the tasks' own terms",
        "Whether a short message is offensive.",
    ),
    DataSet(
        "clinc150", "assistant-intent", "classification", layouts.clinc150, 64, "accuracy",
        "CLINC150 (Larson et al. 2019), full, with out of scope: 15,100 train, 3,100 validation, 5,500 test",
        "adapter Apache-2.0; data CC BY 3.0",
        "What is asked of an assistant, out of 150 intents, or that it is out of scope.",
    ),
    DataSet(
        "tweeteval/stance", "stance", "classification", layouts.stance, 96, "macro_f1",
        "TweetEval, stance (Barbieri et al. 2020; Mohammad et al. 2016), five targets: 2,620 train, 294 validation, "
        "1,249 test",
        "adapter Apache-2.0; data: the tasks' own terms",
        "Whether a message is for or against a target, or neither; the target is the second text.",
    ),
    DataSet(
        "wnut17", "entities", "tagging", layouts.wnut17, 128, "f1",
        "WNUT 2017, emerging entities (Derczynski et al. 2017): 3,394 train, 1,009 validation, 1,287 test messages",
        "adapter Apache-2.0; data CC BY 4.0",
        "Names of persons, places, groups, firms, products and works in short messages.",
    ),
    DataSet(
        "squad_subset", "answers", "answer", layouts.squad, 256, "f1",
        "SQuAD 1.1, a part (Rajpurkar et al. 2016): 4,000 train, 500 validation, 500 test questions",
        "adapter Apache-2.0; data CC BY-SA 4.0",
        "The words of a passage that answer a question.",
    ),
]  # fmt: skip


def prepare(dataset: DataSet, data: Path, out: Path) -> Rows:
    """Writes a data set's three files."""
    folder = out / dataset.task
    folder.mkdir(parents=True, exist_ok=True)
    parts, rows = without_copies(dataset.read(data / dataset.folder))
    for part, examples in parts.items():
        write(folder / f"{part}.jsonl", examples)
    return rows


def table(rows: Mapping[str, Rows]) -> str:
    """The counts as docs/experiment-data.md has them."""
    lines = [
        "| task | training rows | validation | test | seen before | dropped from training | from validation |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [f"| `{task}` | {' | '.join(f'{count:,}' for count in found)} |" for task, found in rows.items()]
    return "\n".join(lines)


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
    rows = {dataset.task: prepare(dataset, options.data, options.out) for dataset in DATASETS}
    facts = {task: found._asdict() for task, found in rows.items()}
    (options.out / "rows.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
