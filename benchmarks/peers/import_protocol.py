"""What the two libraries' scripts share: random weights, all texts' outputs, and what is written about a case.

Runs in the libraries' environments, so it imports nothing of ours. A script is given

    {"bases": {name: {"folder": folder, "texts": [[ids, types]], "pairs": [[ids, types]]}},
     "threads": 2, "only": part of a case's name}

on stdin, and makes of each of its cases, under the folder that it is called with, what the library saves (`<case>/`)
and what it answers (`<case>.npy`: a row of numbers for each text, or for each token of each).
"""

import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

TAGS = ("O", "B-PER", "I-PER", "I-LOC", "B-LOC")  # not in our order


class Case(NamedTuple):
    """One adapter to make; what is not said here, the script's `make` knows by the case's name."""

    name: str
    base: str
    make: Callable[[Any, Path], Any]  # from (the base's folder, where to save) to the model with the adapter in use
    kind: str
    options: Sequence[str] = ()  # of `rootstock import`


def stir(parameters: Mapping[str, torch.nn.Parameter], deviation: float = 0.1) -> None:
    """Moves all that is trained far from where it began: an adapter close to the identity would hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in sorted(parameters.items()):
            parameter += deviation * torch.randn(parameter.shape, generator=generator)


@torch.inference_mode()
def answers(model: Any, kind: str, rows: Sequence[Any]) -> np.ndarray:
    """Raw outputs for all rows of [ids, types], [rows or tokens, width].

    Rows of one length run together: nothing is padded, as what padding does to answers is not the adapter's.
    """
    by_length: dict[int, list[int]] = {}
    for number, (ids, _) in enumerate(rows):
        by_length.setdefault(len(ids), []).append(number)
    found: dict[int, torch.Tensor] = {}
    for numbers in by_length.values():
        ids, types = (torch.tensor([rows[number][part] for number in numbers]) for part in (0, 1))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if getattr(model.config, "type_vocab_size", 0):
            inputs["token_type_ids"] = types
        output = model(**inputs)
        if kind == "embedding":
            outputs = output.last_hidden_state.mean(1, keepdim=True)
        elif kind == "answer":
            outputs = torch.stack([output.start_logits, output.end_logits], dim=-1)
        else:
            outputs = output.logits if kind == "tagging" else output.logits[:, None]
        found |= dict(zip(numbers, outputs, strict=True))
    return torch.cat([found[number] for number in range(len(rows))]).numpy()


def run(cases: Sequence[Case]) -> None:
    """Makes every case, and prints what became of each as JSON lines."""
    settings, out = json.load(sys.stdin), Path(sys.argv[1])
    torch.set_num_threads(settings["threads"])
    for case in [case for case in cases if settings["only"] in case.name]:
        torch.manual_seed(0)
        folder, facts = out / case.name, case._asdict()
        del facts["make"]
        try:
            base = settings["bases"][case.base]
            model = case.make(base["folder"], folder)
            rows = base["pairs" if case.kind == "answer" else "texts"]
            np.save(out / f"{case.name}.npy", answers(model.eval(), case.kind, rows))
        except Exception as error:
            traceback.print_exc()
            facts["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        print(json.dumps(facts), flush=True)
