"""Overload: a real service at twice what it can do, and with one task at ten times its share.

    python benchmarks/storm.py [--minutes 10] [--texts 4] [--tasks 16] [--options "…"] [--only storm|hot]

A process of its own asks the service on this machine over connections that are kept, in an open loop: requests come at
random (Poisson), whether or not those before are answered. Each asks one of the tasks for a few made texts. First the
capacity is found: what 32 clients get answered that ask again as soon as they are, or a second after a refusal, as
`Retry-After` has it. Then in turn:

- unloaded: at 40 % of it, for p50 and p99, three times as long as the other short parts;
- storm: at 200 % of it, for as many minutes;
- after: at 40 % again; how long until the median over a second is no more than 1.25 times the unloaded one;
- calm and hot: the tasks at 30 % of the capacity together, without and with one more that asks for ten times its share
  of the engine; p99 of the others, of all turns together and by turn.

Latencies count from when a request was due. The client runs on the same cores as the service: its processor time is
written down too; Python's garbage collector is off in it. Writes `benchmarks/results/storm.json`.
"""

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import random
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic, process_time, sleep
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from made import make_store
from service.engine.base_model import load_base
from serving import Service, running_service

RESULT = Path(__file__).parent / "results" / "storm.json"
CLIENTS = 32
UNLOADED, STORM, CALM, HOT = 0.4, 2.0, 0.3, 10.0  # shares of the capacity; HOT of a task's own share
TURNS = 5  # of calm and hot: of some hundred requests the slowest hundredth is a few
PAUSE = 1.0  # seconds after a refusal: clients that do not wait take the processor from the answers
IDLE_SECONDS = 3.0  # a connection is not used after; the service closes those that were idle for five
PATIENCE = 30.0  # seconds without an answer, after which a request hangs
PROMPT = 0.05  # seconds within which a refusal is wanted
WORDS = ["film", "good", "bad", "music", "plot", "scene", "never", "again", "really", "slow", "love", "time", "end"]


class Sent(NamedTuple):
    """One request and what came of it."""

    due: float  # seconds since the run began
    seconds: float  # from then to its answer
    status: int  # 0: the connection broke, -1: no answer came
    hot: bool


class Requests:
    """An endless draw of requests."""

    def __init__(self, tasks: int, texts: int) -> None:
        self._tasks, self._texts, self._random = tasks, texts, random.Random(0)

    def draw(self, hot: bool = False) -> bytes:
        task = self._tasks if hot else self._random.randrange(self._tasks)
        texts = [" ".join(self._random.choices(WORDS, k=self._random.randint(5, 35))) for _ in range(self._texts)]
        body = json.dumps({"inputs": texts}).encode()
        head = f"POST /predict/made-{task} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Line:
    """Connections that are kept, one request at a time on each; another is opened where all are busy."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._host, self._port = place.hostname, place.port
        self._free: list[
            tuple[float, asyncio.StreamReader, asyncio.StreamWriter]
        ] = []  # since when, the last is newest

    async def ask(self, request: bytes) -> int:
        """The status of the answer; 0 where the connection broke."""
        try:
            reader, writer = await self._connection()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length:")[2].split("\r\n", 1)[0])
            await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            return 0
        if "connection: close" in head:
            writer.close()
        else:
            self._free.append((monotonic(), reader, writer))
        return int(head.split(" ", 2)[1])

    def close(self) -> None:
        for _, _, writer in self._free:
            writer.close()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """One that the service will not close this moment, for having been idle."""
        while self._free:
            since, reader, writer = self._free.pop()
            if monotonic() - since < IDLE_SECONDS:
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port)


async def closed_loop(url: str, requests: Requests, seconds: float) -> float:
    """Requests answered a second, of clients that ask again as soon as they are."""
    line, statuses, end = Line(url), list[int](), monotonic() + seconds

    async def client() -> None:
        while monotonic() < end:
            statuses.append(await line.ask(requests.draw()))
            if statuses[-1] != 200:
                await asyncio.sleep(PAUSE)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    line.close()
    return statuses.count(200) / seconds


async def open_loop(url: str, requests: Requests, rate: float, seconds: float, hot_rate: float = 0.0) -> list[Sent]:
    """`rate` requests a second of all tasks but the hot one, `hot_rate` of that."""
    line, sent, chance = Line(url), list[Sent](), random.Random(1)
    begun = monotonic()

    async def ask(due: float, hot: bool) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                status = await line.ask(requests.draw(hot))
        except TimeoutError:
            status = -1
        sent.append(Sent(due, monotonic() - begun - due, status, hot))

    asked, due = set(), 0.0
    while due < seconds:
        due += chance.expovariate(rate + hot_rate)
        await asyncio.sleep(max(0.0, begun + due - monotonic()))
        task = asyncio.create_task(ask(due, chance.random() * (rate + hot_rate) < hot_rate))
        asked.add(task)
        task.add_done_callback(asked.discard)
    await asyncio.gather(*asked)
    line.close()
    return sent


def _run_in_child(results: Any, coroutine: Any, arguments: tuple[Any, ...]) -> None:
    # A collection of all that is imported here stops the client for 50 to 150 ms, which would count as the service's.
    gc.disable()
    begun = process_time()
    results.send((asyncio.run(coroutine(*arguments)), process_time() - begun))


def apart(coroutine: Any, *arguments: Any) -> tuple[Any, float]:
    """Runs a client in a process of its own; its result and its processor seconds."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_run_in_child, args=(there, coroutine, arguments))
    process.start()
    result: tuple[Any, float] = here.recv()
    process.join()
    return result


def quantile(values: Sequence[float], share: float) -> float:
    """In milliseconds; 0 of none."""
    order = sorted(values)
    return round(1000 * order[int(share * (len(order) - 1))], 2) if order else 0.0


def described(sent: Sequence[Sent], seconds: float, cpu: float) -> dict[str, Any]:
    answered = [one.seconds for one in sent if one.status == 200]
    refused = [one.seconds for one in sent if one.status in (429, 503)]
    return {
        "seconds": seconds,
        "sent": len(sent),
        "statuses": dict(Counter(str(one.status) for one in sent)),
        "answered": {share: quantile(answered, float(share[1:]) / 100) for share in ("p50", "p99", "p100")},
        "refused": {share: quantile(refused, float(share[1:]) / 100) for share in ("p50", "p99", "p99.9", "p100")},
        "refused_late": [
            {"due": round(one.due, 1), "milliseconds": round(1000 * one.seconds)}
            for one in sent
            if one.status in (429, 503) and one.seconds > PROMPT
        ],
        "client_processor_share": round(cpu / seconds, 3),
    }


def resident_megabytes(service: Service) -> float:
    pages = int(Path(f"/proc/{service.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def recovery(sent: Sequence[Sent], wanted: float) -> float | None:
    """Seconds until the median over a second is within what is wanted; None: it never was."""
    for second in range(int(max(one.due for one in sent)) + 1):
        within = [one.seconds for one in sent if second <= one.due < second + 1 and one.status == 200]
        if within and median(within) <= wanted:
            return second + 1.0
    return None


def capacity_of(service: Service, requests: Requests, seconds: float) -> float:
    apart(closed_loop, service.url, requests, 3.0)
    capacity: float = apart(closed_loop, service.url, requests, seconds)[0]
    print(f"capacity {capacity:.1f} requests/s", flush=True)
    return capacity


def storm(service: Service, requests: Requests, options: argparse.Namespace) -> dict[str, Any]:
    url, short = service.url, options.seconds
    capacity = capacity_of(service, requests, short)

    def run(share: float, seconds: float) -> tuple[list[Sent], dict[str, Any]]:
        sent, cpu = apart(open_loop, url, requests, share * capacity, seconds)
        found = described(sent, seconds, cpu)
        print(f"{share:.2f} of it: {found}", flush=True)
        return sent, found

    _, unloaded = run(UNLOADED, 3 * short)  # its slowest hundredth is what the storm's is measured by
    before = resident_megabytes(service)
    stormy, in_storm = run(STORM, 60 * options.minutes)
    middle = resident_megabytes(service)
    after, later = run(UNLOADED, 10.0)
    sleep(1.0)
    return {
        "capacity": round(capacity, 1),
        "unloaded": unloaded,
        "storm": in_storm,
        "after": later,
        "p99_by_unloaded": round(in_storm["answered"]["p99"] / unloaded["answered"]["p99"], 2),
        "p50_back_after_seconds": recovery(after, 1.25 * unloaded["answered"]["p50"] / 1000),
        "lost": sum(one.status == 0 for one in stormy),
        "hung": sum(one.status == -1 for one in stormy),
        "megabytes": {"before": round(before), "storm": round(middle), "after": round(resident_megabytes(service))},
    }


def others_p99(sent: Sequence[Sent]) -> float:
    return quantile([one.seconds for one in sent if one.status == 200 and not one.hot], 0.99)


def hot(service: Service, requests: Requests, capacity: float, options: argparse.Namespace) -> dict[str, Any]:
    """One task more, at ten times its share, beside the others at a moderate pace; in turns."""
    hot_rate = HOT * capacity / (options.tasks + 1)
    turns: dict[str, list[list[Sent]]] = {"calm": [], "hot": []}
    for _ in range(TURNS):
        for name, extra in (("calm", 0.0), ("hot", hot_rate)):
            sent, _ = apart(open_loop, service.url, requests, CALM * capacity, options.seconds, extra)
            turns[name].append(sent)
    found = {name: [one for sent in each for one in sent] for name, each in turns.items()}
    others = {name: [one for one in sent if not one.hot] for name, sent in found.items()}
    p99 = {name: others_p99(sent) for name, sent in found.items()}
    result = {
        "hot_share_of_capacity": round(hot_rate / capacity, 2),
        "others_p99": p99,
        "others_p99_by_turn": {name: [others_p99(sent) for sent in each] for name, each in turns.items()},
        "others_statuses": {name: dict(Counter(str(one.status) for one in sent)) for name, sent in others.items()},
        "hot_statuses": dict(Counter(str(one.status) for one in found["hot"] if one.hot)),
        "p99_by_calm": round(p99["hot"] / p99["calm"], 2),
        "p99_by_calm_by_turn": [
            round(others_p99(with_it) / others_p99(without), 2)
            for without, with_it in zip(turns["calm"], turns["hot"], strict=True)
        ],
    }
    print(f"hot: {result}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each other part")
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--texts", type=int, default=4)
    parser.add_argument("--options", default="", help="of rootstock serve")
    parser.add_argument("--only", choices=["storm", "hot"], help="what else the file has stays")
    options = parser.parse_args()
    base = load_base(serving=True)
    requests = Requests(options.tasks, options.texts)
    with TemporaryDirectory() as name:
        store = Path(name) / "store"
        store.mkdir()
        make_store(base, store, options.tasks + 1)
        del base
        with running_service(store, "--access-log", "false", *shlex.split(options.options)) as service:
            if options.only == "hot":
                result = json.loads(RESULT.read_text())
                capacity = capacity_of(service, requests, options.seconds)
            else:
                result = {
                    "minutes": options.minutes,
                    "texts_a_request": options.texts,
                    "tasks": options.tasks,
                    "options": options.options,
                } | storm(service, requests, options)
                capacity = result["capacity"]
            if options.only == "storm":
                result["hot"] = json.loads(RESULT.read_text())["hot"]
            else:
                result["hot"] = {"capacity": round(capacity, 1)} | hot(service, requests, capacity, options)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
