"""Ten thousand swaps of the active version under load: is an answer wrong, does a request fail, does memory grow?

    python benchmarks/swaps.py [--swaps 10000] [--quiet 20]

A real service on a store of its own, with one task of eight versions. Each version has other labels, so an answer shows
which one gave it. Two threads keep asking, and each answer must be of the version that it names, and that version one
which was active between the question and the answer. A swap is an activation over HTTP, as in a roll-back, or every
tenth time an upload of a new version and the deletion of another. In between, the same load without swaps.
Writes `benchmarks/results/swaps.json`.
"""

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from threading import Event
from time import perf_counter, sleep
from typing import Any

import httpx2

from made import made_adapter
from service.adapters.file import digest, read_header, read_tensors, write_adapter
from service.client import NEVER, Client
from service.engine.base_model import BaseModel, load_base
from serving import running_service

RESULT = Path(__file__).parent / "results" / "swaps.json"
TASK, TEXT = "swapped", "What a wonderful, funny and moving film."
ASKING = 2  # threads, each with one request under way
VERSIONS = 8
UPLOAD_EVERY = 10
RATIO, GROWTH = 1.5, 0.02  # p99 while swapping over p99 without; memory


@dataclass
class Load:
    """What the asking threads saw."""

    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@dataclass
class Truth:
    """Which version was active when: `times[n]` is when the swap to `versions[n]` was begun."""

    labels: dict[int, str] = field(default_factory=dict)  # version → the label that only it has
    digests: dict[int, str] = field(default_factory=dict)
    begun: list[tuple[float, int]] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    there: list[int] = field(default_factory=list)  # versions that are not deleted

    def expect(self, data: bytes) -> int:
        """The version that a new file will be."""
        version = len(self.labels) + 1
        self.labels[version] = read_header(data).manifest.labels[1]
        self.digests[version] = digest(data)
        self.there.append(version)
        return version

    def allowed(self, asked: float, answered: float) -> set[int]:
        """Versions that may answer: active at some moment between the two."""
        begun, done = self.begun[:], self.done[:]
        first = next(
            (number for number in range(len(begun) - 1, -1, -1) if number < len(done) and done[number] <= asked), 0
        )
        return {version for moment, version in begun[first:] if moment <= answered}


def variant(base: BaseModel, number: int) -> bytes:
    """A file whose labels nobody else has."""
    data = made_adapter(base, number)
    header = read_header(data)
    manifest = header.manifest.model_copy(update={"labels": [f"no-{number}", f"yes-{number}"]})
    return write_adapter(manifest, read_tensors(data, header))


@contextmanager
def asking(url: str, truth: Truth) -> Iterator[Load]:
    """Keeps asking while the block runs."""
    load, stop = Load(), Event()

    def ask() -> None:
        with httpx2.Client(base_url=url, timeout=60) as http:
            while not stop.is_set():
                asked = perf_counter()
                try:
                    answer = http.post(f"/predict/{TASK}", json={"inputs": TEXT})
                except httpx2.HTTPError as error:
                    load.failed.append(repr(error))
                    continue
                answered = perf_counter()
                load.seconds.append(answered - asked)
                if not answer.is_success:
                    load.failed.append(answer.text)
                elif problem := _wrong(answer.json(), truth, asked, answered):
                    load.wrong.append(problem)

    with ThreadPoolExecutor(ASKING) as pool:
        threads = [pool.submit(ask) for _ in range(ASKING)]
        try:
            yield load
        finally:
            stop.set()
        for thread in threads:
            thread.result()


def _wrong(answer: Any, truth: Truth, asked: float, answered: float) -> str | None:
    version, labels = answer["version"], {one["label"] for one in answer["predictions"][0]["scores"]}
    if version not in truth.allowed(asked, answered):
        return f"version {version} answered, which was not active"
    if answer["digest"] != truth.digests[version] or truth.labels[version] not in labels:
        return f"version {version} answered with {labels}"
    return None


def swap(client: Client, base: BaseModel, truth: Truth, swaps: int) -> None:
    """Activations in turn; every tenth swap uploads a version, and deletes the oldest that is not active."""
    there = truth.there
    made = [variant(base, len(truth.labels) + number) for number in range(swaps // UPLOAD_EVERY)][::-1]
    for number in range(swaps):
        if number % UPLOAD_EVERY == UPLOAD_EVERY - 1 and made:
            data = made.pop()
            version = truth.expect(data)
            truth.begun.append((perf_counter(), version))
            assert client.push(TASK, data)["version"] == version
            client.delete(TASK, there.pop(0))
        else:
            version = there[number % (len(there) - 1)]
            version = version if version != truth.begun[-1][1] else there[-1]
            truth.begun.append((perf_counter(), version))
            client.activate(TASK, version)
        truth.done.append(perf_counter())


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def _spread(seconds: list[float]) -> dict[str, float]:
    cuts = quantiles(seconds, n=100)
    return {name: round(1000 * value, 2) for name, value in {"p50": cuts[49], "p90": cuts[89], "p99": cuts[98]}.items()}


def measure(base: BaseModel, swaps: int, quiet: float) -> dict[str, Any]:
    truth, loads = Truth(), list[Load]()
    with (
        TemporaryDirectory() as folder,
        running_service(Path(folder)) as service,
        Client(service.url, retry=NEVER) as client,
    ):
        for number in range(VERSIONS):
            data = variant(base, number)
            assert client.push(TASK, data)["version"] == truth.expect(data)
        truth.begun.append((0.0, VERSIONS))
        truth.done.append(0.0)
        memory, rates = list[int](), list[float]()
        parts = 10
        for part in range(parts + 1):
            with asking(service.url, truth) as load:
                sleep(quiet / (parts + 1))
            loads.append(load)
            memory.append(resident_bytes(service.process.pid))
            if part < parts:
                started = perf_counter()
                with asking(service.url, truth) as load:
                    swap(client, base, truth, swaps // parts)
                loads.append(load)
                rates.append(swaps / parts / (perf_counter() - started))
        entries = len(httpx2.get(f"{service.url}/adapters/{TASK}/log", timeout=60).json()["entries"])
    silent = _spread([one for load in loads[::2] for one in load.seconds])
    swapping = _spread([one for load in loads[1::2] for one in load.seconds])
    return {
        "swaps": len(truth.begun) - 1,
        "requests": sum(len(load.seconds) for load in loads),
        "wrong": [one for load in loads for one in load.wrong],
        "failed": [one for load in loads for one in load.failed],
        "log_entries": entries,
        "milliseconds_without_swaps": silent,
        "milliseconds_while_swapping": swapping,
        "p99_ratio": round(swapping["p99"] / silent["p99"], 2),
        "swaps_per_second_first_and_last_tenth": [round(rates[0], 1), round(rates[-1], 1)],
        "megabytes_after_each_tenth": [round(one / 2**20, 1) for one in memory],
        "memory_growth": round(memory[-1] / median(memory[1:3]) - 1, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=10_000)
    parser.add_argument("--quiet", type=float, default=60.0, help="seconds without swaps, in eleven parts")
    options = parser.parse_args()
    result = measure(load_base(), options.swaps, options.quiet)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    if result["wrong"] or result["failed"]:
        raise SystemExit("an answer is wrong, or a request failed")
    if abs(result["memory_growth"]) > GROWTH or result["p99_ratio"] > RATIO:
        raise SystemExit("memory has grown, or swaps are felt")


if __name__ == "__main__":
    main()
