"""Trains a Houlsby adapter with the `adapters` library's own loop; run by that library's environment, prints JSON.

python train_with_adapters.py BASE TRAIN.jsonl TEST.jsonl EPOCHS BOTTLENECK LEARNING_RATE MAX_LENGTH SEED WARM_UP
                              [OPTION …]

The first WARM_UP rows are trained on once, by a model of their own; then the whole file, which is timed. Options of
the trainer, off as it comes: group_by_length, bf16.
"""

import json
import sys
import time

import adapters
import torch
from adapters import AdapterTrainer, AutoAdapterModel
from transformers import AutoTokenizer, DataCollatorWithPadding, TrainerCallback, TrainingArguments, set_seed


def read(path: str) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


class Clock(TrainerCallback):
    """The training loop: from the first batch to the end of the last step."""

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *_: object, **__: object) -> None:
        self.ended = time.perf_counter()


def main() -> None:
    base, train_path, test_path, epochs, bottleneck, rate, max_length, seed, warm_up, *options = sys.argv[1:]
    train, test = read(train_path), read(test_path)
    labels = sorted({row["label"] for row in train})
    tokenizer = AutoTokenizer.from_pretrained(base)

    def encoded(rows: list[dict[str, str]]) -> list[dict[str, object]]:
        found = []
        for row in rows:
            one = tokenizer(row["text"], row.get("text_pair"), truncation=True, max_length=int(max_length))
            found.append({**one, "labels": labels.index(row["label"])})
        return found

    def trainer(rows: list[dict[str, str]], epochs: int) -> AdapterTrainer:
        """With a model of its own."""
        set_seed(int(seed))
        model = AutoAdapterModel.from_pretrained(base)
        config = adapters.DoubleSeqBnConfig(reduction_factor=model.config.hidden_size / int(bottleneck))
        model.add_adapter("task", config=config)
        model.add_classification_head("task", num_labels=len(labels))
        model.train_adapter("task")
        arguments = TrainingArguments(
            output_dir="/dev/shm/adapters-peer",
            num_train_epochs=float(epochs),
            learning_rate=float(rate),
            per_device_train_batch_size=32,
            per_device_eval_batch_size=64,
            warmup_ratio=0.1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            seed=int(seed),
            **dict.fromkeys(options, True),
        )
        return AdapterTrainer(
            model=model,
            args=arguments,
            train_dataset=encoded(rows),
            data_collator=DataCollatorWithPadding(tokenizer),
        )

    trainer(train[: int(warm_up)], 1).train()
    timed, clock = trainer(train, int(epochs)), Clock()
    timed.add_callback(clock)
    timed.train()
    seconds = clock.ended - clock.started
    output = timed.predict(encoded(test))
    right = output.label_ids  # in the order of the predictions, which the grouping by length has changed
    print(
        json.dumps(
            {
                "seconds": seconds,
                "examples_per_second": len(train) * int(epochs) / seconds,
                "accuracy": float((output.predictions.argmax(axis=1) == right).mean()),
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main()
