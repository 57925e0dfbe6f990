"""The proof of an adapter before it lives: in the engine that will run it, as a resident that no traffic reaches.

| step | |
|---|---|
| outputs | each input gives finite outputs |
| golden | the file's golden examples come out as its trainer saw them |
| change | the outputs are not those of the bare base under the same head, unless the head is all there is |
| mixture | among rows of other adapters its outputs are the same as without them, and so are theirs |

The last two take one input, the shortest: a batch is not left once it has begun, so traffic waits for the whole of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from service.adapters.manifest import Golden, Input, Manifest
from service.adapters.methods import BARE
from service.engine.bank import Resident
from service.engine.base_model import BaseModel as Base
from service.engine.engine import Row
from service.errors import BadAdapter, noting
from service.tasks import Floats, Given, Reading, kind_of, read_for

Run = Callable[[Sequence[Row]], Sequence[Floats]]  # has the engine run rows in batches of their own, and waits

# Golden outputs were computed in float32; what the service's precision may add to the file's own tolerance. Three times
# the farthest that any of 2,100 inputs of 14 trained adapters came out: 0.016 and 0.107, in float32 below 0.0001
# (benchmarks/proof.py). float16 and int16 are finer than bfloat16.
ROUNDING = {"float32": 0.0, "float16": 0.05, "bfloat16": 0.05, "int8": 0.3, "int16": 0.05}
# How far a row's raw outputs may lie from those without its neighbours, as a share of the largest. Our kernels give the
# same bits; torch's operators round by the batch, and a mix-up is far beyond either.
MIXTURE = {"float32": 0.001, "float16": 0.02, "bfloat16": 0.1, "int8": 0.001, "int16": 0.001}
SAME = 1e-6  # of the largest output: no change at all, but for the order of sums
STRANGERS = 3  # other adapters beside the candidate and the bare base; traffic waits while these batches run
PROBES = (  # for files without golden examples
    "It was neither good nor bad, just another day at the office.",
    "Call 0800 123456 now!",
    "Where does the river meet the sea?",
)


class Proof(BaseModel):
    """What was seen. It is kept in the task's log."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: str = Field(description="of the base, in which it was proved")
    sealed: bool = Field(description="whether the file has a seal; it is right, or the file would be refused")
    golden: int = Field(description="golden examples reproduced")
    off: float | None = Field(description="how far the farthest of them was off; null: there were none")
    tolerance: float | None = Field(description="how far it might have been")
    change: float | None = Field(
        description="the largest change of a raw output against the bare base; null: the head is all there is"
    )
    strangers: int = Field(description="other adapters that shared its batches")


class Prover:
    def __init__(self, base: Base, run: Run) -> None:
        self._base, self._run = base, run

    def prove(self, candidate: Resident, sealed: bool, others: Sequence[Resident]) -> Proof:
        """Runs the candidate alone and among others.

        Raises:
            BadAdapter: naming the step, and the example with what was expected and found.
            Overloaded, EngineFault: nothing is known of the adapter yet.
        """
        manifest = candidate.manifest
        with noting(step="golden"):
            readings = self._readings(manifest)
        rows = [row for reading in readings for row in reading.rows]
        alone = self._run([Row(row, candidate) for row in rows])
        if not _finite(alone):
            raise BadAdapter("its outputs are not finite numbers: the engine cannot compute with it", step="outputs")
        tolerance = max(manifest.tolerance, ROUNDING[self._base.precision])
        with noting(step="golden"):
            distances = _distances(candidate, readings, alone, tolerance)

        shortest = min(range(len(rows)), key=lambda number: len(rows[number]))
        row, own = rows[shortest], alone[shortest]
        bare = replace(candidate, adaptation=BARE)
        strangers = list(islice((other for other in others if other.digest != candidate.digest), STRANGERS))
        without = self._run([Row(row, resident) for resident in (bare, *strangers)])
        with noting(step="change"):
            change = _change(candidate, own, without[0])
        together = self._run([Row(row, resident) for resident in (candidate, bare, *strangers)])
        with noting(step="mixture"):
            _compare(together, [own, *without], MIXTURE[self._base.precision])
        return Proof(
            precision=self._base.precision,
            sealed=sealed,
            golden=len(distances),
            off=max(distances, default=None),
            tolerance=tolerance if distances else None,
            change=change,
            strangers=len(strangers),
        )

    def _readings(self, manifest: Manifest) -> list[Reading]:
        """The golden inputs, as the task reads them; probes where there are none."""
        given = [one.input for one in manifest.golden] or [
            Input(text=text, text_pair=other if manifest.head.pair else None)
            for text, other in zip(PROBES, reversed(PROBES), strict=True)
        ]
        reads = "two texts" if manifest.head.pair else "one text"
        for number, one in enumerate(given):
            if (one.text_pair is not None) != manifest.head.pair:
                raise BadAdapter(f"golden example {number} is not what the task reads: {reads}", example=number)
        readings = read_for(manifest, self._base.tokenizer, [Given(one.text, one.text_pair) for one in given])
        for number, (golden, reading) in enumerate(zip(manifest.golden, readings, strict=False)):
            _check_size(manifest, number, golden, reading)
        return readings


def _check_size(manifest: Manifest, number: int, golden: Golden, reading: Reading) -> None:
    """Before anything is run: as many outputs as the kind gives, which also bounds what the proof takes in memory."""
    kind = kind_of(manifest)
    due = kind.width(manifest) * (sum(map(len, reading.rows)) if kind.per_token else 1)
    if len(golden.outputs) != due:
        raise BadAdapter(
            f"golden example {number} has {len(golden.outputs)} outputs, the task gives {due}",
            example=number, expected=due, got=len(golden.outputs),
        )  # fmt: skip


def _distances(
    candidate: Resident, readings: Sequence[Reading], raw: Sequence[Floats], tolerance: float
) -> list[float]:
    """How far each golden example is off.

    Raises:
        BadAdapter: further than `tolerance`.
    """
    manifest, kind, left, distances = candidate.manifest, candidate.kind, iter(raw), list[float]()
    for number, (golden, reading) in enumerate(zip(manifest.golden, readings, strict=False)):
        found = kind.decode(manifest, reading, [next(left) for _ in reading.rows]).outputs
        expected = np.array(golden.outputs, dtype=np.float32)
        off = kind.distance(manifest, found, expected)
        if not off <= tolerance:  # nor is NaN
            worst = int(np.abs(found - expected).argmax())
            raise BadAdapter(
                f"golden example {number}: output {worst} is {found[worst]:.5g}, its trainer saw "
                f"{expected[worst]:.5g}: off by {off:.3g}, at most {tolerance:g} is allowed here",
                example=number, expected=float(expected[worst]), got=float(found[worst]),
            )  # fmt: skip
        distances.append(off)
    return distances


def _change(candidate: Resident, adapted: Floats, bare: Floats) -> float | None:
    """The largest change that the adapter makes below its head."""
    if not candidate.manifest.method.shapes(candidate.manifest.base.dims):
        return None
    if _gap(adapted, bare) <= SAME:
        raise BadAdapter("its outputs are those of the bare base under the same head: the adapter changes nothing")
    return float(np.abs(adapted - bare).max())


def _compare(together: Sequence[Floats], known: Sequence[Floats], allowed: float) -> None:
    """Each must answer among the others as it did before; the candidate is the first."""
    for number, (found, before) in enumerate(zip(together, known, strict=True)):
        if not np.isfinite(before).all():
            continue  # a stranger that never was is nobody's fault here
        off = _gap(found, before)
        if not off <= allowed:  # nor is NaN
            raise BadAdapter(
                f"among rows of other adapters, {'those' if number else 'its own'} come out otherwise than "
                f"without: off by {off:.2g} of the largest output, at most {allowed} is allowed",
                expected=allowed, got=off,
            )  # fmt: skip


def _finite(outputs: Sequence[Floats]) -> bool:
    return all(np.isfinite(part).all() for part in outputs)


def _gap(found: Floats, known: Floats) -> float:
    """The largest difference, as a share of the largest number where that is over one."""
    return float(np.abs(found - known).max()) / max(1.0, float(np.abs(known).max()))
