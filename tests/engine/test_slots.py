"""Slots: each adapter's numbers are its own as long as it is held, and all of a batch run without a loop over them."""

import gc
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from torch import Tensor

from service.adapters.methods import BARE, Adaptation, AnyMethod, Dims, Head, Houlsby, Lora, Parallel, PrefixTuning
from service.engine.bank import Resident, bare_resident
from service.engine.base_model import BaseModel
from service.engine.device import CPU, Upload
from service.engine.engine import Engine, Row
from service.engine.slots import Slots, Slotted
from service.engine.slots.blocks import in_blocks
from service.engine.slots.stack import FIRST, Stack
from tests.layouts import load_in
from tests.tiny import KINDS, METHODS, alone, make_resident, random_row

pytestmark = pytest.mark.usefixtures("one_thread")

DIMS = Dims(layers=2, hidden=32, inner=64, heads=4)
SHAPES: list[AnyMethod] = [
    Houlsby(bottleneck=4),
    Houlsby(bottleneck=17),
    Parallel(bottleneck=3),
    Lora(rank=2, targets=("key", "ffn_out")),
    PrefixTuning(length=2, norms=True),
    Head(norms=True),
]


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> BaseModel:
    return load_in("slots", str(tiny_folder))


def _adaptation(method: AnyMethod, seed: int) -> Adaptation:
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in method.shapes(DIMS).items()}
    return method.adapt(DIMS, tensors, torch.float32)


def _holds(slotted: Slotted, adaptation: Adaptation) -> bool:
    """Whether the slot has the adapter's numbers, and zeros around them."""
    for held, expected in zip(_parts(slotted.stack.parts), _parts(adaptation), strict=True):
        mine = held[slotted.number]
        inner = mine[tuple(slice(size) for size in expected.shape)]
        if not torch.equal(inner, expected) or mine.count_nonzero() != expected.count_nonzero():
            return False
    return True


def _parts(adaptation: Adaptation) -> list[Tensor]:
    """Its tensors, by site."""
    fields: tuple[Any, ...] = (
        adaptation.bottlenecks, adaptation.low_ranks, adaptation.prefixes, adaptation.norms
    )  # fmt: skip
    ordered = (part for parts in fields for _, part in sorted(parts.items()))
    return [item for part in ordered for item in part if isinstance(item, Tensor)]


class SlotsMachine(RuleBasedStateMachine):
    """Whatever comes and goes: what is held keeps its numbers, what is let go makes room, and nothing else is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(CPU, torch.float32)
        self.held: list[tuple[Slotted, Adaptation]] = []
        self.most: WeakKeyDictionary[Stack, int] = WeakKeyDictionary()
        self.seed = 0

    @rule(shape=st.integers(0, len(SHAPES) - 1), count=st.integers(1, 6))
    def come(self, shape: int, count: int) -> None:
        for _ in range(count):
            self.seed += 1
            adaptation = _adaptation(SHAPES[shape], self.seed)
            placed = self.slots.place(adaptation)
            assert isinstance(placed, Slotted)
            self.held.append((placed, adaptation))

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0), count=st.integers(1, 6))
    def go(self, number: int, count: int) -> None:
        for _ in range(min(count, len(self.held))):
            self.held.pop(number % len(self.held))

    @invariant()
    def every_slot_is_its_adapters(self) -> None:
        assert all(_holds(slotted, adaptation) for slotted, adaptation in self.held)
        places = {(slotted.stack, slotted.number) for slotted, _ in self.held}
        assert len(places) == len(self.held)

    @invariant()
    def no_stack_is_larger_than_it_had_to_be(self) -> None:
        by_stack = Counter(slotted.stack for slotted, _ in self.held)
        assert set(self.slots._stacks.values()) == set(by_stack)
        for stack, count in by_stack.items():
            self.most[stack] = max(count, self.most.get(stack, 0))
            assert stack.slots <= max(FIRST, 2 * self.most[stack])
            assert len(stack._free) == stack.slots - count


def test_slots_keep_their_promises_whatever_comes_and_goes() -> None:
    run_state_machine_as_test(SlotsMachine, settings=settings(max_examples=30, stateful_step_count=20))


def test_a_slot_is_used_again_and_again() -> None:
    slots = Slots(CPU, torch.float32)
    kept = slots.place(_adaptation(SHAPES[0], 0))
    assert isinstance(kept, Slotted)
    for seed in range(200):
        assert isinstance(slots.place(_adaptation(SHAPES[0], seed)), Slotted)
    assert kept.stack.slots == FIRST


def test_nearly_equal_sizes_share_a_stack_and_others_do_not() -> None:
    slots = Slots(CPU, torch.float32)
    one, near, far, other = (
        slots.place(_adaptation(method, 0))
        for method in (Houlsby(bottleneck=4), Houlsby(bottleneck=9), Houlsby(bottleneck=17), Houlsby(activation="relu"))
    )
    assert isinstance(one, Slotted)
    assert isinstance(near, Slotted)
    assert isinstance(far, Slotted)
    assert isinstance(other, Slotted)
    assert one.stack is near.stack
    assert len({one.stack, far.stack, other.stack}) == 3


def test_an_adapter_that_cannot_be_copied_takes_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = Slots(CPU, torch.float32)
    kept = slots.place(_adaptation(SHAPES[0], 0))
    assert isinstance(kept, Slotted)
    with monkeypatch.context() as patch:
        patch.setattr(Upload, "fill", _no_memory)
        with pytest.raises(RuntimeError, match="out of memory"):
            slots.place(_adaptation(SHAPES[0], 1))
    gc.collect()
    assert len(kept.stack._free) == FIRST - 1


def _no_memory(upload: Upload, target: Tensor, source: Tensor) -> None:
    raise RuntimeError("out of memory")


def test_the_bare_base_takes_no_slot() -> None:
    assert Slots(CPU, torch.float32).place(Adaptation()) is BARE


def test_a_resident_gives_its_slot_back_with_its_last_row(base: BaseModel) -> None:
    kept, gone = (make_resident(base, seed=seed) for seed in (0, 1))
    assert isinstance(kept.adaptation, Slotted)
    stack = kept.adaptation.stack
    row = Row(random_row(5), gone)
    before = len(stack._free)
    del gone
    gc.collect()
    assert len(stack._free) == before
    del row
    gc.collect()
    assert len(stack._free) == before + 1


@pytest.mark.parametrize(
    ("tokens", "size", "owners"),
    [
        ([9], 9, [0]),  # alone, or all alike: as they stand
        ([25, 25, 25], 25, [0, 1, 2]),
        ([20, 24, 24], 24, [0, 1, 2]),  # nearly alike: the most
        ([3, 400], 102, [0, 1, 1, 1, 1]),
        ([10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 40], 10, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10]),
    ],
)
def test_blocks(tokens: list[int], size: int, owners: list[int]) -> None:
    found = in_blocks(tokens)
    assert (found.size, found.owners.tolist()) == (size, owners)
    assert found.full == (size * len(owners) == sum(tokens))


@given(st.lists(st.integers(1, 400), min_size=1, max_size=20))
def test_blocks_hold_every_token_once_with_its_own_adapter(tokens: list[int]) -> None:
    blocks = in_blocks(tokens)
    assert np.array_equal(blocks.token[blocks.place], np.arange(sum(tokens)))
    assert np.array_equal(blocks.owners[blocks.place // blocks.size], np.repeat(np.arange(len(tokens)), tokens))
    assert len(blocks.token) <= max(tokens) * len(tokens)


@pytest.fixture(scope="module")
def tasks(base: BaseModel) -> list[Resident]:
    pairs = [(kind, method) for kind in KINDS for method in METHODS.values()]
    made = [make_resident(base, kind=kind, method=method, seed=seed) for seed, (kind, method) in enumerate(pairs)]
    return [*made, bare_resident(base)]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 72), st.integers(3, 64), st.integers(0, 3)), min_size=1, max_size=24))
def test_mixed_equals_alone(base: BaseModel, tasks: list[Resident], asked: list[tuple[int, int, int]]) -> None:
    engine = Engine(base)
    rows = [Row(random_row(length, seed, tasks[task].manifest.head.pair), tasks[task]) for task, length, seed in asked]
    for row, found in zip(rows, engine.run(rows), strict=True):
        np.testing.assert_allclose(found, alone(engine, row), rtol=1e-4, atol=1e-4)


def test_the_plain_path_computes_the_same(base: BaseModel, tasks: list[Resident], tiny_base: BaseModel) -> None:
    pairs = [(kind, method) for kind in KINDS for method in METHODS.values()]
    plain = [make_resident(tiny_base, kind=kind, method=method, seed=seed) for seed, (kind, method) in enumerate(pairs)]
    rows = [random_row(5 + number % 30, number, task.manifest.head.pair) for number, task in enumerate(plain)]
    expected = Engine(tiny_base).run([Row(row, task) for row, task in zip(rows, plain, strict=True)])
    found = Engine(base).run([Row(row, task) for row, task in zip(rows, tasks, strict=False)])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_an_adapter_changes_its_slot_and_nobody_sees_it(base: BaseModel) -> None:
    row = random_row(9)
    expected = {seed: Engine(base).run([Row(row, make_resident(base, seed=seed))])[0] for seed in range(12)}
    for order in (range(12), range(11, -1, -1)):
        held = [(seed, make_resident(base, seed=seed)) for seed in order]
        for (seed, _), found in zip(held, Engine(base).run([Row(row, one) for _, one in held]), strict=True):
            np.testing.assert_allclose(found, expected[seed], atol=1e-5)


def test_answers_hold_while_other_adapters_come_and_go(base: BaseModel) -> None:
    rows = [Row(random_row(5 + seed), make_resident(base, seed=seed)) for seed in range(6)]
    engine, done = Engine(base), Event()
    expected = engine.run(rows)
    turns = {0: 0, 10_000: 0}

    def churn(first: int) -> None:
        seed = first
        while not done.is_set():
            held = [(base.weights.slots.place(_adaptation(SHAPES[0], seed + n)), seed + n) for n in range(seed % 23)]
            assert all(_holds(slotted, _adaptation(SHAPES[0], own)) for slotted, own in held)
            seed += 1
            turns[first] += 1

    with ThreadPoolExecutor(2) as threads:
        churns = [threads.submit(churn, first) for first in turns]
        try:
            while min(turns.values()) < 5 and not any(one.done() for one in churns):
                for found, other in zip(engine.run(rows), expected, strict=True):
                    np.testing.assert_array_equal(found, other)
        finally:
            done.set()
    for one in churns:
        one.result()


def test_more_adapters_are_not_more_calls(base: BaseModel) -> None:
    def calls(residents: Sequence[Resident]) -> int:
        rows = [Row(random_row(5 + number % 7), one) for number, one in enumerate(residents)]
        with torch.profiler.profile() as profile:
            Engine(base).run(rows)
        return sum(event.key in ("aten::bmm", "aten::baddbmm") and event.count for event in profile.key_averages())

    for method in (Houlsby(bottleneck=4), Lora(rank=2)):
        many = [make_resident(base, seed=seed, method=method) for seed in range(40)]
        assert calls(many[:2]) == calls(many) > 0
