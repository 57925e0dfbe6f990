"""What other libraries save, imported, beside the libraries themselves: their answers to 100 texts and ours.

    PYTHONPATH=. python benchmarks/imports.py --peers FOLDER [--work FOLDER] [--only TEXT]

FOLDER takes the libraries' environments (`benchmarks/engine.py`). Each case of `peers/imports_adapters.py` and
`peers/imports_peft.py` has random weights, far from the identity; `rootstock import` takes it or refuses it by name.
Prints the matrix, writes benchmarks/results/imports.json, and ends with 1 where answers differ by more than 1e-4.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from engine_contestants import environment
from service.cli import main as program
from service.engine.arranging import load_resident
from service.engine.base_model import DEFAULT_BASE, BaseModel, load_base, locate
from service.engine.engine import Engine, Row
from service.tasks import Given, TokenizedRow
from service.tasks.reading import read
from tests.tiny import CONFIGS, WORDS, build_tiny

HERE = Path(__file__).parent
TOLERANCE = 1e-4
TEXTS = 100
PEERS = {"adapters": "imports_adapters.py", "peft": "imports_peft.py"}
TAGS = ("O", "B-PER", "I-PER", "I-LOC", "B-LOC")  # of the peers' heads, by row
REFUSED, EQUAL, UNEQUAL, NOT_MADE = "refused", "equal", "UNEQUAL", "the library cannot make it"
Fact = dict[str, Any]


def run(peers: Path, work: Path, only: str) -> list[Fact]:
    """What became of each case."""
    folders = {"bert": locate(DEFAULT_BASE)}
    for model_type in CONFIGS:
        if model_type != "bert":
            folders[model_type] = str(build_tiny(work / "bases" / model_type, model_type))
    bases = {name: load_base(folder, serving=True) for name, folder in folders.items()}
    inputs = {name: {"folder": folders[name], **_inputs(base)} for name, base in bases.items()}
    settings = {"bases": inputs, "threads": torch.get_num_threads(), "only": only}
    facts = []
    for library, script in PEERS.items():
        out = work / library
        out.mkdir(parents=True, exist_ok=True)
        for case in _made(environment(library, peers), script, out, settings):
            fact = {"library": library, **case, **_compared(bases[case["base"]], folders[case["base"]], out, case)}
            facts.append(fact)
            print(_line(fact), flush=True)
    return facts


def _inputs(base: BaseModel) -> dict[str, Any]:
    """Texts, and questions with texts, as the base reads them."""
    chance = Random(0)
    texts = [" ".join(chance.choices(WORDS, k=chance.randint(1, 12))) for _ in range(TEXTS)]
    questions = [" ".join(chance.choices(WORDS, k=chance.randint(3, 8))) for _ in texts]
    kinds = {"texts": list(map(Given, texts)), "pairs": list(map(Given, questions, texts))}
    readings = {name: read(base.tokenizer, given, base.max_length) for name, given in kinds.items()}
    return {
        name: [[reading.rows[0].ids.tolist(), reading.rows[0].types.tolist()] for reading in read_so]
        for name, read_so in readings.items()
    }


def _made(python: Path, script: str, out: Path, settings: Mapping[str, Any]) -> Iterator[Fact]:
    """The peer's own account of each case, as it makes them."""
    command = [str(python), str(HERE / "peers" / script), str(out)]
    with (out / "errors.txt").open("w") as errors:
        peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert peer.stdin is not None
        assert peer.stdout is not None
        json.dump(settings, peer.stdin)
        peer.stdin.close()
        for line in peer.stdout:
            yield json.loads(line)
    if peer.wait():
        raise SystemExit(f"{script} ended with {peer.returncode}; see {out / 'errors.txt'}")


def _compared(base: BaseModel, folder: str, out: Path, case: Fact) -> Fact:
    if "failed" in case:
        return {"became": NOT_MADE, "why": case["failed"]}
    file = out / f"{case['name']}.safetensors"
    arguments = ["import", out / case["name"], "--task", "made", "--out", file, "--base-model", folder]
    try:
        program.main([str(part) for part in (*arguments, *case["options"])], standalone_mode=False)
    except click.ClickException as error:
        return {"became": REFUSED, "why": error.message.removeprefix(f"{out / case['name']}: ")}
    theirs: NDArray[np.float32] = np.load(out / f"{case['name']}.npy")
    ours = _answers(base, file, _inputs(base)["pairs" if case["kind"] == "answer" else "texts"])
    if case["kind"] == "tagging":
        theirs = theirs[:, [TAGS.index(tag) for tag in ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")]]
    difference = float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("inf")
    became = EQUAL if difference <= TOLERANCE else UNEQUAL
    return {"became": became, "difference": difference, "deviation": float(theirs.std()), "bytes": file.stat().st_size}


def _answers(base: BaseModel, file: Path, rows: Sequence[Any]) -> NDArray[np.float32]:
    resident = load_resident(base, file.read_bytes(), version=1)
    tokens = [TokenizedRow(np.array(ids), np.array(types), truncated=False) for ids, types in rows]
    found = Engine(base).run([Row(row, resident) for row in tokens])
    return np.concatenate([part.reshape(-1, part.shape[-1]) for part in found])


def _line(fact: Fact) -> str:
    said = f"within {fact['difference']:.1e}" if "difference" in fact else str(fact["why"])
    return f"{fact['library']:<9} {fact['name']:<40} {fact['kind']:<15} {fact['became']:<8} {said}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="keeps what is made; default: a folder for the moment")
    parser.add_argument("--only", default="", help="cases with this in their name; no results are written")
    options = parser.parse_args()
    with TemporaryDirectory() as moment:
        facts = run(options.peers, options.work or Path(moment), options.only)
    count = {became: sum(fact["became"] == became for fact in facts) for became in (EQUAL, REFUSED, UNEQUAL, NOT_MADE)}
    print(", ".join(f"{number} {became}" for became, number in count.items()))
    if not options.only:
        results = HERE / "results" / "imports.json"
        results.write_text(json.dumps({"tolerance": TOLERANCE, "texts": TEXTS, "cases": facts}, indent=1) + "\n")
    sys.exit(count[UNEQUAL] > 0)


if __name__ == "__main__":
    main()
