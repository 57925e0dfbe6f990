"""Ten thousand swaps of the active version under load: is an answer wrong, does a request fail, does memory grow?

    python benchmarks/swaps.py [--swaps 10000] [--quiet 20]

A real service on a store of its own, with one task of eight versions. Each version has other labels, so an answer shows
which one gave it. Two threads of another process keep asking, and each answer must be of the version that it names, and
that version one which was active between the question and the answer. A swap is an activation over HTTP, as in a
roll-back, or every tenth time an upload of a new version and the deletion of another. In between, the same load without
swaps.
Writes `benchmarks/results/swaps.json`.
"""

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from threading import Barrier
from time import perf_counter, sleep
from typing import Any, NamedTuple

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


class Answer(NamedTuple):
    """What came of one request. Times are of the clock that all processes of a machine share."""

    asked: float
    answered: float
    problem: str | None  # why there is none
    version: int = 0
    digest: str = ""
    labels: frozenset[str] = frozenset()


@dataclass
class Load:
    """What those who asked saw."""

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
    """Keeps asking while the block runs, in a process of its own: what swaps cost the one who asks for them is not
    what they cost the service.
    """
    spawn, load = get_context("spawn"), Load()
    stop, answers = spawn.Event(), spawn.SimpleQueue()
    asker = spawn.Process(target=ask, args=(url, stop, answers))
    asker.start()
    answers.get()  # it has begun
    try:
        yield load
    finally:
        stop.set()
        found: list[Answer] = answers.get()
        asker.join()
    for one in found:
        load.seconds.append(one.answered - one.asked)
        if one.problem is not None:
            load.failed.append(one.problem)
        elif problem := _wrong(one, truth):
            load.wrong.append(problem)


def ask(url: str, stop: Event, answers: "SimpleQueue[list[Answer]]") -> None:
    """The other process: asks until it is stopped, and sends what was answered."""

    def keep_asking() -> list[Answer]:
        found = []
        with httpx2.Client(base_url=url, timeout=60) as http:
            http.post(f"/predict/{TASK}", json={"inputs": TEXT})  # the connection is there
            started.wait()
            while not stop.is_set():
                asked = perf_counter()
                try:
                    answer = http.post(f"/predict/{TASK}", json={"inputs": TEXT})
                except httpx2.HTTPError as error:
                    found.append(Answer(asked, perf_counter(), repr(error)))
                    continue
                answered = perf_counter()
                if not answer.is_success:
                    found.append(Answer(asked, answered, answer.text))
                    continue
                body = answer.json()
                labels = frozenset(one["label"] for one in body["predictions"][0]["scores"])
                found.append(Answer(asked, answered, None, body["version"], body["digest"], labels))
        return found

    started = Barrier(ASKING + 1)
    with ThreadPoolExecutor(ASKING) as pool:
        threads = [pool.submit(keep_asking) for _ in range(ASKING)]
        started.wait()
        answers.put([])
        answers.put([answer for thread in threads for answer in thread.result()])


def _wrong(answer: Answer, truth: Truth) -> str | None:
    if answer.version not in truth.allowed(answer.asked, answer.answered):
        return f"version {answer.version} answered, which was not active"
    if answer.digest != truth.digests[answer.version] or truth.labels[answer.version] not in answer.labels:
        return f"version {answer.version} answered with {sorted(answer.labels)}"
    return None


def swap(client: Client, made: list[bytes], truth: Truth, swaps: int) -> None:
    """Activations in turn; every tenth swap uploads a version, and deletes the oldest that is not active."""
    there = truth.there
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
                first = len(truth.labels)
                made = [variant(base, first + number) for number in range(swaps // parts // UPLOAD_EVERY)]
                started = perf_counter()
                with asking(service.url, truth) as load:
                    swap(client, made[::-1], truth, swaps // parts)
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
