"""The engine beside its peers: rows a second with many tasks, by length, one row alone, and the share of the peak.

    python benchmarks/engine.py --data PREPARED --peers FOLDER [--fast] [--rounds 10] [--only NAME …] [--threads N]

PREPARED is what `benchmarks/data_sets.py` wrote. The peers get environments of their own in FOLDER, made at the first
run; made-up adapters, stores and the exported base are kept there too (some gigabytes, and 16 GB of memory while
it runs). `--only` takes contestants by the beginning of their names; without it all of them run, but those in
bfloat16 only where the processor multiplies in it: elsewhere it is emulated, minutes a round, and nobody's choice. Ours
in integers runs in those that the processor has.
`--fast` is a small run of two minutes.

Written is `benchmarks/results/engine-KIND.json`, by the kind of processor it ran on (`engine_results.KINDS`), which
`engine_page.py` makes the page of; of the small run `engine-fast.json`.

Every contestant is a process that stays, and only one of them works at a time. A round runs every way of every
contestant on the same batches, workload by workload; ratios are of times in the same round. The real rows are run twice
in a turn, and timed the second time: what a thousand adapters take was last touched minutes ago, and in a service a
moment ago. All get the same token ids. Texts come from the test sets of sentiment and banking-intent, in a drawn order
and not sorted by length. Peers pad each batch to its longest row (latefuse to one fixed length, which is all that it
can), ours packs. Rows of ours go through a head as well, those of the peers end with the mean of their tokens.

What is asked of each ratio is in `asked`; ratios are of speeds: over one, ours is faster.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

import torch

from engine_contestants import BFLOAT16, CONTESTANTS, Failed, Running, exported
from engine_results import agreement, described, kind, machine, ratios, shares, summary
from engine_turns import FAST, OURS, PRODUCTS, Scale, Turn, asked, turns, workloads
from service.engine import native
from service.engine.base_model import DEFAULT_BASE, locate
from service.engine.layout import INTEGERS, multiplies_bfloat16

RESULTS = Path(__file__).parent / "results"
PAUSE = 0.05  # seconds between turns, in which the threads of the one before fall asleep


def run(data: Path, peers: Path, scale: Scale, only: Sequence[str], threads: int) -> dict[str, Any]:
    base = locate(DEFAULT_BASE)
    names = entered(only)
    given = workloads(data, base, scale)
    file = peers / "workloads.json"  # too long for a pipe that nobody reads yet
    file.write_text(json.dumps(given))
    settings = {
        "base": base, "cache": str(exported(base, peers)), "threads": threads, "bottleneck": 64, "rank": 8,
        "targets": ["query", "value"], "in_memory": scale.in_memory, "tasks": scale.tasks, "stored": scale.stored,
        "resident": scale.resident, "zipf": 1.0, "products": PRODUCTS, "workloads": str(file), "asked": ["real"],
    }  # fmt: skip
    running = {name: Running(name, peers, settings) for name in names}
    try:
        contestants = {name: attempt(one.loaded) for name, one in running.items()}
        ready = [name for name, one in contestants.items() if "failed" not in one]
        planned = [turn for turn in turns(scale) if turn.contestant in ready]
        answers = {turn: [attempt(partial(first_batch, running, turn))] for turn in planned}
        loads = []
        for number in range(scale.rounds):
            loads.append(os.getloadavg()[0])
            for turn in planned:
                if "failed" not in answers[turn][-1]:
                    answers[turn].append(attempt(partial(one_turn, running, turn)))
            print(f"round {number + 1} of {scale.rounds}", flush=True)
    finally:
        for one in running.values():
            one.end()
    failed = {" · ".join(turn): one[-1]["failed"] for turn, one in answers.items() if "failed" in one[-1]}
    found = {turn: [one["seconds"] for one in each[1:]] for turn, each in answers.items() if "failed" not in each[-1]}
    facts = {turn.contestant: answers[turn][-1]["facts"] for turn in found}
    parameters = {name: one["linear_parameters"] for name, one in facts.items() if "linear_parameters" in one}
    return {
        "machine": machine(threads),
        "scale": vars(scale),
        "settings": {name: value for name, value in settings.items() if name not in ("base", "cache", "workloads")},
        "load_at_rounds": loads,
        "workloads": {name: described(batches) for name, batches in given.items()},
        "contestants": {name: {**one, "facts": facts.get(name)} for name, one in contestants.items()},
        "failed": failed,
        "agreement": dict(agreement({turn: each[0] for turn, each in answers.items()})),
        "turns": [summary(turn, given[turn.workload], times) for turn, times in found.items()],
        "ratios": list(ratios(asked(scale), found)),
        "shares": dict(shares(found, given["real"], parameters)),
    }


def entered(only: Sequence[str]) -> list[str]:
    if only:
        return [name for name in CONTESTANTS if name.startswith(tuple(only))]
    emulated = () if multiplies_bfloat16() else BFLOAT16
    absent = [ours for ours in OURS if (precision := ours.split()[1]) in INTEGERS and not native.available(precision)]
    return [name for name, one in CONTESTANTS.items() if one.argument not in emulated and name not in absent]


def first_batch(running: dict[str, Running], turn: Turn) -> dict[str, Any]:
    """Untimed, with what came out where it is the base's vectors."""
    sleep(PAUSE)
    return running[turn.contestant].ask(turn.way, turn.workload, 1, turn.way == "bare" and turn.workload == "real")


def one_turn(running: dict[str, Running], turn: Turn) -> dict[str, Any]:
    sleep(PAUSE)
    if turn.workload == "real":
        running[turn.contestant].ask(turn.way, turn.workload)
    return running[turn.contestant].ask(turn.way, turn.workload)


def attempt(act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return act()
    except Failed as failure:
        return {"failed": str(failure)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    scale = FAST if options.fast else Scale()
    if options.rounds:
        scale = replace(scale, rounds=options.rounds)
    result = run(options.data, options.peers, scale, options.only, options.threads)
    file = RESULTS / f"engine-{'fast' if options.fast else kind()}.json"
    file.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    show(result)


def show(result: dict[str, Any]) -> None:
    for turn in result["turns"]:
        if "gops" in turn:
            figure = f"{turn['gops']['median']:.0f} Gop/s"
        elif "p50" in turn:
            figure = f"{1e3 * turn['p50']:.2f} ms, p95 {1e3 * turn['p95']:.2f}"
        else:
            figure = f"{turn['rows_per_second']['median']:.0f} rows/s"
        print(f"{turn['workload']:12} {turn['contestant']:22} {turn['way']:26} {figure}")
    for ratio in result["ratios"]:
        least = "" if ratio["asked"] is None else f"  (asked: {ratio['asked']:.2f})"
        print(f"{ratio['name']:72} {ratio['median']:6.2f}{least}")
    print(json.dumps({name: result[name] for name in ("failed", "agreement", "shares")}, indent=2))


if __name__ == "__main__":
    main()
