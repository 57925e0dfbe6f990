"""New adapters arrive while the service works: does a request fail, is the new task there at once, does it stay?

    python benchmarks/upload_under_load.py [--rounds 5] [--seconds 4]

A real service on a copy of `adapters_store`; four threads keep asking its tasks in turn. Each round has a quiet part
and a part with an upload after another; every upload is followed by one request for the new task. Then the process is
killed (SIGKILL) the moment an upload is acknowledged, started again on the same store, and asked for everything that
was acknowledged. Writes `benchmarks/results/upload_under_load.json`.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from threading import Event
from time import monotonic, perf_counter
from typing import Any

from service.adapters.file import digest, read_header, read_tensors, write_adapter
from service.client import NEVER, Client
from service.errors import RootstockError
from serving import running_service

HERE = Path(__file__).parent
STORE = HERE.parent / "adapters_store"
RESULT = HERE / "results" / "upload_under_load.json"
ASKING = 4  # threads, each with one request under way
TEXTS = ["Where is my card?", "A long and lovely evening at the pictures.", "Call now to claim your free prize!"]

Uploaded = dict[str, str]  # task → digest of what was acknowledged


@dataclass
class Load:
    """What the asking threads saw in one part."""

    seconds: list[float] = field(default_factory=list)  # of each answered request
    failures: list[str] = field(default_factory=list)


def inputs_by_task(store: Path) -> dict[str, Any]:
    manifests = [read_header(path.read_bytes()).manifest for path in sorted(store.glob("*.safetensors"))]
    return {m.task: [{"text": t, "text_pair": t} if m.head.pair else t for t in TEXTS] for m in manifests}


@contextmanager
def asking(url: str, inputs: dict[str, Any]) -> Iterator[Load]:
    """Keeps asking while the block runs."""
    load, stop = Load(), Event()

    def ask(first: int) -> None:
        names = cycle([*list(inputs)[first:], *list(inputs)[:first]])
        with Client(url, retry=NEVER) as client:
            while not stop.is_set():
                task, started = next(names), perf_counter()
                try:
                    client.predict(task, inputs[task])
                    load.seconds.append(perf_counter() - started)
                except RootstockError as error:
                    load.failures.append(f"{task}: {error}")

    with ThreadPoolExecutor(ASKING) as pool:
        asked = [pool.submit(ask, number % len(inputs)) for number in range(ASKING)]
        try:
            yield load
        finally:
            stop.set()
    for one in asked:
        one.result()


def variant(number: int) -> bytes:
    """A new adapter: the sentiment one with another description, so another file."""
    data = (STORE / "sentiment-1.safetensors").read_bytes()
    header = read_header(data)
    manifest = header.manifest.model_copy(update={"description": f"copy {number}", "golden": []})
    return write_adapter(manifest, read_tensors(data, header))


def upload_and_ask(client: Client, number: int, uploaded: Uploaded) -> tuple[float, str | None]:
    """Seconds of the upload, and what went wrong with the next request for its task."""
    task, data = f"fresh-{number}", variant(number)
    started = perf_counter()
    client.push(task, data)
    seconds = perf_counter() - started
    uploaded[task] = digest(data)
    try:
        client.predict(task, TEXTS)
    except RootstockError as error:
        return seconds, f"{task}: {error}"
    return seconds, None


def under_load(store: Path, rounds: int, seconds: float, uploaded: Uploaded) -> dict[str, Any]:
    inputs = inputs_by_task(store)
    quiet_seconds, busy_seconds, upload_seconds = [], [], []
    failures: list[str] = []
    numbers = iter(range(1_000_000))
    medians = []
    with running_service(store) as service, Client(service.url, retry=NEVER) as client:
        for _ in range(rounds):
            with asking(service.url, inputs) as quiet:
                Event().wait(seconds)
            with asking(service.url, inputs) as busy:
                end = monotonic() + seconds
                while monotonic() < end:
                    took, problem = upload_and_ask(client, next(numbers), uploaded)
                    upload_seconds.append(took)
                    failures.extend([problem] if problem else [])
            failures += quiet.failures + busy.failures
            quiet_seconds += quiet.seconds
            busy_seconds += busy.seconds
            medians.append(median(busy.seconds) / median(quiet.seconds))
    return {
        "requests": len(quiet_seconds) + len(busy_seconds),
        "uploads": len(upload_seconds),
        "failures": failures,
        "upload_milliseconds": _spread(upload_seconds),
        "request_milliseconds_quiet": _spread(quiet_seconds),
        "request_milliseconds_during_uploads": _spread(busy_seconds),
        "median_during_uploads_over_quiet_by_round": [round(ratio, 2) for ratio in medians],
    }


def killed(store: Path, kills: int, uploaded: Uploaded) -> dict[str, Any]:
    """Kill after each acknowledgement, start again, ask for everything acknowledged so far."""
    lost: list[str] = []
    for number in range(kills):
        with running_service(store) as service, Client(service.url, retry=NEVER) as client:
            task, data = f"killed-{number}", variant(10_000 + number)
            client.push(task, data)
            service.process.kill()
            uploaded[task] = digest(data)
        with running_service(store) as service, Client(service.url, retry=NEVER) as client:
            served = {one["task"]: one["digest"] for one in client.tasks()}
            lost += [task for task, content in uploaded.items() if served.get(task) != content]
            client.predict(task, TEXTS)
    return {"kills": kills, "acknowledged": len(uploaded), "lost": lost}


def _spread(seconds: list[float]) -> dict[str, float]:
    cuts = quantiles(seconds, n=100)
    return {name: round(1000 * value, 1) for name, value in {"p50": cuts[49], "p90": cuts[89], "p99": cuts[98]}.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each part of a round")
    parser.add_argument("--kills", type=int, default=3)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        store = Path(shutil.copytree(STORE, Path(folder) / "store"))
        uploaded: Uploaded = {}
        result = under_load(store, options.rounds, options.seconds, uploaded)
        result["after_kill"] = killed(store, options.kills, uploaded)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    if result["failures"] or result["after_kill"]["lost"]:
        raise SystemExit("a request failed, or something acknowledged is lost")


if __name__ == "__main__":
    main()
