"""What N resident adapters cost in memory, beside the empty service: one base, whatever the number of tasks.

    python benchmarks/memory.py [--adapters 1000] [--rounds 3]

Writes that many adapters of random weights into a temporary folder, and starts a real service on an empty store and
on the full one, in turn. Both are asked before they are measured: the empty one for embeddings, the full one by
every task once. Resident memory is what the kernel counts for the process (VmRSS). Writes
`benchmarks/results/memory.json`.
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from made import make_store
from service.client import Client
from service.engine.base_model import load_base
from serving import Service, running_service

RESULT = Path(__file__).parent / "results" / "memory.json"
TEXT = "A few words, as people write them."
ASKING = 8  # requests under way at once


def measure(store: Path) -> dict[str, Any]:
    """Resident memory of a service on `store`, after it has answered with every task of it; bytes."""
    with running_service(store) as service, Client(service.url) as client:
        at_start = resident_memory(service)
        names = [task["task"] for task in client.tasks()]
        with ThreadPoolExecutor(ASKING) as pool:
            for answers in pool.map(lambda name: client.predict(name, [TEXT] * 4), names):
                assert len(answers) == 4
        stats = client.stats()["adapters"]
        return {"at_start": at_start, "after_answers": resident_memory(service), "adapters": stats}


def resident_memory(service: Service) -> int:
    """Bytes of physical memory that the process holds."""
    for line in Path(f"/proc/{service.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell VmRSS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    base = load_base()
    rounds = []
    with TemporaryDirectory() as empty, TemporaryDirectory() as full:
        make_store(base, Path(full), options.adapters)
        for _ in range(options.rounds):
            nothing, everything = measure(Path(empty)), measure(Path(full))
            expected = nothing["after_answers"] + everything["adapters"]["bytes"]
            rounds.append(
                {
                    "empty_bytes": nothing["after_answers"],
                    "adapter_bytes": everything["adapters"]["bytes"],
                    "full_bytes_at_start": everything["at_start"],
                    "full_bytes": everything["after_answers"],
                    "over_expected": everything["after_answers"] / expected - 1,
                }
            )
            print(json.dumps(rounds[-1]), flush=True)
    result = {
        "adapters": everything["adapters"],
        "base_bytes": base.bytes,
        "rounds": rounds,
        "median": {name: median(one[name] for one in rounds) for name in rounds[0]},
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    found = result["median"]
    megabytes = {name: round(value / 1e6) for name, value in found.items() if name.endswith("bytes")}
    print(f"{options.adapters} adapters: {megabytes} MB; {found['over_expected']:+.1%} of empty + Σ|v| (asked: ≤ +5 %)")


if __name__ == "__main__":
    main()
