"""From a request's inputs to the tasks' answers: checked, tokenised, run in one job, decoded."""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from time import monotonic
from typing import NamedTuple, TypeVar

import numpy as np
from fastapi import Request

from service.adapters.manifest import MAX_LABELS, Manifest
from service.api.account import Account, Usage
from service.api.schemas import Parameters, QuestionInput, TextInput
from service.api.services import Services
from service.engine.bank import Resident
from service.engine.engine import Row
from service.errors import BadInput, CallerLeft, EngineFault, Overloaded, RootstockError, TooLarge
from service.serving.scheduler import SEVERAL
from service.tasks import Floats, Given, Prediction, Reading, read_for, reading_settings

INLINE_CHARACTERS = 4096  # more text than this is tokenised beside the event loop, not on it
INLINE_NUMBERS = 20_000  # more outputs than this are decoded there
MAX_SCORES = 500_000  # in one answer

T = TypeVar("T")

Sent = str | TextInput | QuestionInput


class Asked(NamedTuple):
    """One task's part of a request."""

    task: str
    resident: Resident
    readings: Sequence[Reading]

    @property
    def tokens(self) -> int:
        """Tokens run, special ones included."""
        return sum(len(row) for reading in self.readings for row in reading.rows)

    @property
    def truncated(self) -> int:
        """Inputs that were cut."""
        return sum(reading.truncated for reading in self.readings)


class Answered(NamedTuple):
    """What a task was asked, what the engine put out for it, and what that means."""

    asked: Asked
    raw: Sequence[Sequence[Floats]]  # by input, by row of its reading
    predictions: Sequence[Prediction]  # by input


async def find(services: Services, task: str, version: int | None = None) -> Resident:
    """What answers the task: its active version or the one asked for.

    Raises:
        UnknownTask, UnknownVersion, BadStore, BadAdapter
    """
    resident = services.registry.ready(task, version)
    if resident is not None:
        return resident
    # Shielded: the file may be read for others too, who go on waiting where this one leaves.
    return await asyncio.shield(asyncio.wrap_future(services.registry.fetch(task, version)))


def refuse_early(services: Services, task: str, tasks: list[str]) -> None:
    """For what there is no room for, before it is read.

    Args:
        task: in whose line the request would wait.
        tasks: of `counted`; the task is put into it where it is refused, if it is one that is served.

    Raises:
        OverQuota, Overloaded, EngineFault
    """
    try:
        services.quotas.check(task, monotonic())
        services.runner.check(task)
    except Overloaded:
        with suppress(RootstockError):
            services.registry.active(task)
            tasks.append(task)
        raise


async def answer(
    request: Request | None,
    services: Services,
    residents: Mapping[str, Resident],
    inputs: Sequence[Sent],
    parameters: Parameters,
    account: Account,
) -> list[Answered]:
    """What each task answers to the inputs, in the tasks' order; all in one job.

    Args:
        request: of the caller who waits; None: nobody does, so others go first, and no quota is charged.
        account: what it takes is noted there.

    Raises:
        BadInput: naming the input by its place, and where several tasks are asked, the task.
        TooLarge: there are more inputs, or scores to give, than in one request.
        OverQuota: one of the tasks has had its tokens.
        Overloaded, DeadlineExceeded, EngineFault, CallerLeft
    """
    if request is not None:
        for task in residents:
            services.quotas.check(task, monotonic())
    given = _checked(residents, inputs, parameters, services.settings.max_inputs)
    tracing = services.tracing if request is not None else None
    if tracing is not None:
        tracing.begin(account)
    started = monotonic()
    asked = await _read(services, residents, given)
    account.tokenised = started, monotonic()
    account.usage = [Usage(one.task, len(one.readings), one.tokens, one.truncated) for one in asked]
    if not parameters.truncate:
        _refuse_truncated(asked)
    # By input, then by task: rows of one text stand together, and share what their tasks have in common.
    order = [(number, one) for number in range(len(inputs)) for one in asked]
    rows = [Row(row, one.resident) for number, one in order for row in one.readings[number].rows]
    line = next(iter(residents)) if len(residents) == 1 else SEVERAL
    future = services.runner.submit(rows, line, account.deadline, spare=request is None, course=account.course)
    if request is None:
        outputs = await asyncio.wrap_future(future)
    else:
        for one in asked:
            services.quotas.charge(one.task, one.tokens, monotonic())
        try:
            outputs = await _while_awaited(request, future)
        except BaseException:
            future.cancel()  # nothing of it is begun from here on
            if not account.course.begun:
                for one in asked:
                    services.quotas.charge(one.task, -one.tokens, monotonic())
            raise

    def decoded() -> list[Answered]:
        left = iter(outputs)
        found: dict[str, list[tuple[Sequence[Floats], Prediction]]] = {task: [] for task in residents}
        for number, one in order:
            reading = one.readings[number]
            raw = [next(left) for _ in reading.rows]
            found[one.task].append((raw, _decode(one, reading, raw, parameters.top_k)))
        return [Answered(one, *zip(*found[one.task], strict=True)) for one in asked]

    started = monotonic()
    large = sum(raw.size for raw in outputs) > INLINE_NUMBERS
    answers = await _beside(services, decoded) if large else decoded()
    account.decoded = started, monotonic()
    if tracing is not None:
        tracing.draw(account)
    return answers


def _checked(
    residents: Mapping[str, Resident], inputs: Sequence[Sent], parameters: Parameters, limit: int
) -> dict[str, list[Given]]:
    """The inputs as each task reads them."""
    if len(inputs) * len(residents) > limit:
        times = f" for {len(residents)} tasks" if len(residents) > 1 else ""
        raise TooLarge(f"inputs: {len(inputs)}{times} in one request; at most {limit} are answered")
    labels = sum(min(len(one.manifest.labels), parameters.top_k or MAX_LABELS) for one in residents.values())
    if len(inputs) * labels > MAX_SCORES:
        raise TooLarge(
            f"inputs: {len(inputs) * labels} scores in one answer, at most {MAX_SCORES} are given; send fewer inputs"
            " at once, or name top_k"
        )
    return {
        task: [
            _given(resident.manifest, f"inputs[{index}]", one, f"task {task}" if len(residents) > 1 else "the task")
            for index, one in enumerate(inputs)
        ]
        for task, resident in residents.items()
    }


def _given(manifest: Manifest, place: str, sent: Sent, task: str) -> Given:
    needed = input_names(manifest)
    found = {"text": sent} if isinstance(sent, str) else sent.model_dump(exclude_none=True)
    if set(found) != set(needed):
        raise BadInput(f"{place}: {task} reads {_form(needed)}; {_form(found)} was sent")
    for name, value in found.items():
        if not value.strip():
            raise BadInput(f"{place}: {name} is empty")
    return Given(*(found[name] for name in needed))


def input_names(manifest: Manifest) -> Sequence[str]:
    """The parts of an input, as requests name them."""
    names = ("question", "context") if manifest.kind == "answer" else ("text", "text_pair")
    return names if manifest.head.pair else names[:1]


def _form(names: Collection[str]) -> str:
    return "a text" if set(names) == {"text"} else f"{{{', '.join(names)}}}"


async def _beside(services: Services, work: Callable[[], T]) -> T:
    """Runs what would hold the event loop up."""
    return await asyncio.get_running_loop().run_in_executor(services.readers, work)


async def _read(
    services: Services, residents: Mapping[str, Resident], given: Mapping[str, Sequence[Given]]
) -> list[Asked]:
    """Tokenises the inputs; once for all tasks that read them alike."""

    def read() -> Iterator[Asked]:
        known: dict[object, list[Reading]] = {}
        for task, resident in residents.items():
            alike = (reading_settings(resident.manifest), resident.manifest.head.pair)
            if alike not in known:
                known[alike] = read_for(resident.manifest, services.base.tokenizer, given[task])
            yield Asked(task, resident, known[alike])

    characters = sum(len(one.text) + len(one.text_pair or "") for inputs in given.values() for one in inputs)
    if characters > INLINE_CHARACTERS:
        return await _beside(services, lambda: list(read()))
    return list(read())


def _refuse_truncated(asked: Sequence[Asked]) -> None:
    for one in asked:
        for index, reading in enumerate(one.readings):
            if reading.truncated:
                longest = one.resident.manifest.tokenizer.max_length
                task = f"task {one.task}" if len(asked) > 1 else "the task"
                raise BadInput(f"inputs[{index}]: longer than {task}'s {longest} tokens, and truncate is false")


async def _while_awaited(request: Request, future: Future[list[Floats]]) -> list[Floats]:
    """The engine's outputs; the job is given up when the caller goes away.

    Raises:
        CallerLeft
    """
    outputs = asyncio.wrap_future(future)
    leaving = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((outputs, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not outputs.done():
            raise CallerLeft("the caller left before the answer")
        return outputs.result()
    finally:
        outputs.cancel()
        leaving.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _decode(one: Asked, reading: Reading, raw: Sequence[Floats], top_k: int | None) -> Prediction:
    resident = one.resident
    finite = all(np.isfinite(part).all() for part in raw)
    with np.errstate(all="ignore"):  # judged by what comes out
        prediction = resident.kind.decode(resident.manifest, reading, raw, top_k)
    if not (finite and np.isfinite(prediction.outputs).all()):
        raise EngineFault(f"task {one.task} version {resident.version} put out a value that is not a finite number")
    return prediction
