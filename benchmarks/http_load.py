"""What HTTP costs: the service under 32 clients beside its own engine, in one interleaved run.

    python benchmarks/http_load.py --data PREPARED [--dtype auto] [--inputs 16] [--rounds 5] [--seconds 6]

PREPARED is what `benchmarks/data_sets.py` wrote; the texts are the test set of sentiment. The store holds 64 random
adapters, and each request asks one of them for `inputs` texts. A round has four parts, one at work at a time: the
engine of this process on the same rows, 64 to a batch; the service under 32 clients, each with one request in flight;
and the service at 70 % of the rows a second that it had just reached, once from the same clients, each at a steady
pace of its own, and once from requests that come at random (Poisson). There a single server that takes one request
after another has a p99 of 4.4 times its p50, however fast it is. Clients run in this process, on the same cores as
the service. Writes `benchmarks/results/http_load.json`.
"""

import argparse
import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import torch

from made import made_adapter
from service.engine.arranging import load_resident
from service.engine.base_model import BaseModel, load_base
from service.engine.engine import Engine, Row
from service.tasks import Given, read_for
from serving import running_service

RESULT = Path(__file__).parent / "results" / "http_load.json"
TASKS, CLIENTS, BATCH, SHARE = 64, 32, 64, 0.7


class Load(NamedTuple):
    """What came of some seconds of requests."""

    rows_per_second: float
    p50: float  # milliseconds from when a request was due
    p99: float


class Connection:
    """One HTTP/1.1 connection that is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def post(self, path: str, body: bytes) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        if not answer.startswith("http/1.1 200"):
            raise RuntimeError(f"{path} was answered by {answer.splitlines()[0]}")
        [length] = [line.split(":")[1] for line in answer.splitlines() if line.startswith("content-length:")]
        await self._reader.readexactly(int(length))

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def connections(url: str, n: int) -> AsyncIterator[list[Connection]]:
    place = urlsplit(url)
    found = [Connection(*await asyncio.open_connection(place.hostname, place.port)) for _ in range(n)]
    yield found
    for connection in found:
        connection.close()


class Requests:
    """An endless draw of requests: a task, and some texts."""

    def __init__(self, texts: Sequence[str], inputs: int) -> None:
        self._texts, self._inputs, self._random = texts, inputs, random.Random(0)

    def draw(self) -> tuple[str, list[str]]:
        return f"made-{self._random.randrange(TASKS)}", self._random.choices(self._texts, k=self._inputs)

    def sent(self) -> tuple[str, bytes]:
        task, texts = self.draw()
        return f"/predict/{task}", json.dumps({"inputs": texts}).encode()


def engine_alone(base: BaseModel, files: Sequence[bytes], requests: Requests, seconds: float) -> float:
    """Rows a second in batches of `BATCH`, tokenised beforehand."""
    residents = [load_resident(base, file, version=1) for file in files]
    rows: list[Row] = []
    while len(rows) < 16 * BATCH:
        task, texts = requests.draw()
        resident = residents[int(task.removeprefix("made-"))]
        readings = read_for(resident.manifest, base.tokenizer, [Given(text) for text in texts])
        rows += [Row(reading.rows[0], resident) for reading in readings]
    batches = [rows[start : start + BATCH] for start in range(0, len(rows) - BATCH + 1, BATCH)]
    engine, done = Engine(base), 0
    engine.run(batches[0])
    begun = perf_counter()
    while perf_counter() - begun < seconds:
        engine.run(batches[done % len(batches)])
        done += 1
    return done * BATCH / (perf_counter() - begun)


async def closed_loop(url: str, requests: Requests, inputs: int, seconds: float) -> Load:
    """Clients that ask again as soon as they are answered."""
    took: list[float] = []
    async with connections(url, CLIENTS) as clients:
        end = perf_counter() + seconds

        async def client(connection: Connection) -> None:
            while (begun := perf_counter()) < end:
                await connection.post(*requests.sent())
                took.append(perf_counter() - begun)

        begun = perf_counter()
        await asyncio.gather(*map(client, clients))
        return _load(took, inputs, perf_counter() - begun)


async def paced(url: str, requests: Requests, inputs: int, rate: float, seconds: float) -> Load:
    """Clients that ask `rate` rows a second together, each at regular times; one that is late asks at once."""
    took: list[float] = []
    interval, chance = CLIENTS * inputs / rate, random.Random(1)
    async with connections(url, CLIENTS) as clients:
        begun = perf_counter()

        async def client(connection: Connection) -> None:
            due = begun + chance.uniform(0, interval)
            while due < begun + seconds:
                await asyncio.sleep(max(0.0, due - perf_counter()))
                await connection.post(*requests.sent())
                took.append(perf_counter() - due)
                due += interval

        await asyncio.gather(*map(client, clients))
        return _load(took, inputs, perf_counter() - begun)


async def open_loop(url: str, requests: Requests, inputs: int, rate: float, seconds: float) -> Load:
    """Requests that come at random times, `rate` rows a second, whether or not the ones before are answered."""
    took: list[float] = []
    chance = random.Random(1)
    async with connections(url, 8 * CLIENTS) as clients:
        free: asyncio.Queue[Connection] = asyncio.Queue()
        for connection in clients:
            free.put_nowait(connection)

        async def ask(due: float) -> None:
            connection = await free.get()
            await connection.post(*requests.sent())
            took.append(perf_counter() - due)
            free.put_nowait(connection)

        begun = due = perf_counter()
        asked = []
        while due < begun + seconds:
            due += chance.expovariate(rate / inputs)
            await asyncio.sleep(max(0.0, due - perf_counter()))
            asked.append(asyncio.create_task(ask(due)))
        await asyncio.gather(*asked)
        return _load(took, inputs, perf_counter() - begun)


def _load(took: Sequence[float], inputs: int, seconds: float) -> Load:
    order = sorted(took)
    p50, p99 = (1000 * order[int(share * (len(order) - 1))] for share in (0.5, 0.99))
    return Load(len(took) * inputs / seconds, p50, p99)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    lines = (options.data / "sentiment" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    requests = Requests([json.loads(line)["text"] for line in lines], options.inputs)
    if options.threads:
        torch.set_num_threads(options.threads)
    base = load_base(dtype=options.dtype, serving=True)
    files = [made_adapter(base, number) for number in range(TASKS)]
    rounds: list[dict[str, Any]] = []
    with TemporaryDirectory() as name:
        store = Path(name) / "store"
        store.mkdir()
        for number, file in enumerate(files):
            (store / f"made-{number}-1.safetensors").write_bytes(file)
        # 32 clients with 16 texts each are more than a slow engine would let wait.
        arguments = ("--dtype", options.dtype, "--threads", str(options.threads), "--queue-seconds", "60")
        with running_service(store, *arguments) as service:
            asyncio.run(closed_loop(service.url, requests, options.inputs, 2.0))
            for number in range(options.rounds):
                alone = engine_alone(base, files, requests, options.seconds)
                busy = asyncio.run(closed_loop(service.url, requests, options.inputs, options.seconds))
                rate = SHARE * busy.rows_per_second
                loads = {"busy": busy}
                for name, load in (("paced", paced), ("at random", open_loop)):
                    loads[name] = asyncio.run(load(service.url, requests, options.inputs, rate, options.seconds))
                rounds.append({"engine": alone} | {name: load._asdict() for name, load in loads.items()})
                print(f"round {number + 1}: engine {alone:.0f} rows/s, {loads}", flush=True)
    return {
        "dtype": base.precision,
        "inputs_a_request": options.inputs,
        "rounds": rounds,
        "http_share": median(one["busy"]["rows_per_second"] / one["engine"] for one in rounds),
        "p99_by_p50": {
            name: median(one[name]["p99"] / one[name]["p50"] for one in rounds) for name in ("paced", "at random")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    result = measure(parser.parse_args())
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    tails = ", ".join(f"{name} {ratio:.1f} × p50" for name, ratio in result["p99_by_p50"].items())
    print(f"over HTTP {result['http_share']:.2f} of the engine's rows a second; p99 {tails}")


if __name__ == "__main__":
    main()
