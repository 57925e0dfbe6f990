"""Mixed equals alone: whatever shares the batch, each row gets what it would get by itself, by one pass of the base."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.adapters.manifest import KindName
from service.adapters.methods import AnyMethod, Houlsby
from service.engine import engine as engine_module
from service.engine.bank import Resident, bare_resident
from service.engine.base_model import BaseModel, load_base
from service.engine.encoder import Stage, encode_stages
from service.engine.engine import Engine, Row
from service.engine.weights import Weights
from service.tasks import Floats, Given, read_for
from tests.tiny import KINDS, METHODS, alone, make_resident, random_row

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = [f"label {number}" for number in range(17)]
COMBINATIONS: list[tuple[KindName, AnyMethod]] = [(kind, method) for kind in KINDS for method in METHODS.values()]
TASKS = len(COMBINATIONS) + 3


def make_tasks(base: BaseModel) -> list[Resident]:
    """Every kind by every method, no two with equal weights, and the like of one that is there already."""
    tasks = [
        make_resident(
            base,
            seed=seed,
            kind=kind,
            method=method,
            labels=LABELS[: 2 + seed % 16],
            pair=kind == "regression",
            pooling=("mean", "first")[seed % 2],
        )
        for seed, (kind, method) in enumerate(COMBINATIONS)
    ]
    tasks += [make_resident(base, seed=seed, method=Houlsby(bottleneck=4)) for seed in (1001, 1002)]
    return [*tasks, bare_resident(base)]


@pytest.fixture(scope="module")
def tasks(tiny_base: BaseModel) -> list[Resident]:
    return make_tasks(tiny_base)


def _row(resident: Resident, length: int, seed: int) -> Row:
    return Row(random_row(length, seed, resident.manifest.head.pair), resident)


BATCHES = st.lists(st.tuples(st.integers(0, TASKS - 1), st.integers(3, 64), st.integers(0, 3)), min_size=1, max_size=16)


@settings(max_examples=40)
@given(BATCHES)
def test_mixed_equals_alone(tiny_base: BaseModel, tasks: list[Resident], batch: list[tuple[int, int, int]]) -> None:
    _assert_mixed_equals_alone(Engine(tiny_base), [_row(tasks[task], *row) for task, *row in batch])


@pytest.mark.slow
@settings(max_examples=2000, derandomize=False)
@given(BATCHES)
def test_mixed_equals_alone_at_length(
    tiny_base: BaseModel, tasks: list[Resident], batch: list[tuple[int, int, int]]
) -> None:
    _assert_mixed_equals_alone(Engine(tiny_base), [_row(tasks[task], *row) for task, *row in batch])


def test_every_kind_and_method_at_once_equals_alone(tiny_base: BaseModel, tasks: list[Resident]) -> None:
    rows = [_row(task, 5 + number % 4, seed=0) for number, task in enumerate(tasks)]
    _assert_mixed_equals_alone(Engine(tiny_base), rows)


def test_mixed_equals_alone_on_the_real_base(real_base: BaseModel) -> None:
    _assert_mixed_equals_alone_on(real_base, [*zip(cycle(KINDS), METHODS.values(), strict=False)])


@pytest.mark.slow
def test_every_kind_and_method_at_once_equals_alone_on_the_real_base(real_base: BaseModel) -> None:
    _assert_mixed_equals_alone_on(real_base, COMBINATIONS)


def test_fifty_tasks_share_a_batch(tiny_base: BaseModel) -> None:
    residents = [make_resident(tiny_base, seed=seed, method=Houlsby(bottleneck=seed % 7 + 1)) for seed in range(50)]
    rows = [_row(resident, 5 + number % 3, seed=0) for number, resident in enumerate(residents)]
    _assert_mixed_equals_alone(Engine(tiny_base), rows)
    raw = np.stack(Engine(tiny_base).run(rows))
    assert len({tuple(row) for row in raw.round(3)}) == 50  # nobody got a neighbour's answer


@settings(max_examples=15)
@given(st.permutations(range(TASKS)))
def test_answers_come_in_the_order_of_the_rows(tiny_base: BaseModel, tasks: list[Resident], order: list[int]) -> None:
    engine = Engine(tiny_base)
    rows = [_row(task, 7, seed=0) for task in tasks]
    straight, shuffled = engine.run(rows), engine.run([rows[i] for i in order])
    _assert_close(shuffled, [straight[i] for i in order])


def test_two_versions_of_a_task_share_a_batch(tiny_base: BaseModel) -> None:
    versions = [make_resident(tiny_base, version, seed=version) for version in (1, 2)]
    rows = [_row(versions[number % 2], 9, seed=0) for number in range(4)]
    raw = Engine(tiny_base).run(rows)
    _assert_close(raw[:2], raw[2:])
    assert np.abs(raw[0] - raw[1]).max() > 0.01


def test_a_rows_answer_does_not_depend_on_its_neighbours_content(tiny_base: BaseModel, tasks: list[Resident]) -> None:
    engine, mine = Engine(tiny_base), _row(tasks[0], 12, seed=0)
    one, other = (engine.run([mine, _row(tasks[0], 12, seed), _row(tasks[2], 30, seed)])[0] for seed in (1, 2))
    np.testing.assert_array_equal(one, other)


def test_raw_outputs_have_the_heads_width(tiny_base: BaseModel, tasks: list[Resident]) -> None:
    raw = Engine(tiny_base).run([_row(task, 6, seed=0) for task in tasks])
    for task, row in zip(tasks, raw, strict=True):
        manifest = task.manifest
        width = task.kind.width(manifest)
        assert row.shape == ((6, width) if manifest.kind in ("tagging", "answer") else (width,))
    assert {row.dtype for row in raw} == {np.dtype(np.float32)}


def test_one_pass_serves_all_tasks(
    tiny_base: BaseModel, tasks: list[Resident], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[Sequence[Stage]] = []
    multiplied: list[Tensor] = []
    linear = torch.nn.functional.linear

    def counting_encode(weights: Weights, stages: Sequence[Stage]) -> Tensor:
        passes.append(stages)
        return encode_stages(weights, stages)

    def counting_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        multiplied.append(weight)
        return linear(x, weight, bias)

    monkeypatch.setattr(engine_module, "encode_stages", counting_encode)
    monkeypatch.setattr(torch.nn.functional, "linear", counting_linear)
    Engine(tiny_base).run([_row(task, length, seed=0) for task in tasks for length in (3, 9, 9)])
    [stages] = passes
    assert [layer for stage in stages for layer in stage.layers] == list(range(tiny_base.dims.layers))
    for stage in stages:  # each adapter once, its rows together; those of the bare base share one
        adaptations = [group.adaptation for group in stage.groups]
        assert len(adaptations) == len(set(adaptations))
    assert len(stages[-1].groups) == TASKS - len(KINDS)
    for layer in tiny_base.weights.layers:
        for part in (layer.qkv, layer.attention_out, layer.ffn_in, layer.ffn_out):
            assert sum(weight is part.weight for weight in multiplied) == 1


def test_a_base_in_half_precision_answers_closely(tiny_base: BaseModel, tiny_folder: Path) -> None:
    half = load_base(str(tiny_folder), dtype="bfloat16")
    assert half.bytes < tiny_base.bytes
    lengths = [3, 20, 64]
    exact, close = (
        Engine(base).run([_row(task, length, seed=0) for task in make_tasks(base) for length in lengths])
        for base in (tiny_base, half)
    )
    for one, other in zip(exact, close, strict=True):
        assert np.linalg.norm(one - other) <= 0.05 * np.linalg.norm(one) + 0.05


def test_the_engine_changes_neither_base_nor_adapter(tiny_base: BaseModel, tasks: list[Resident]) -> None:
    parts = [*tiny_base.weights.tensors(), *(tensor for task in tasks for tensor in task.head.values())]
    before = [tensor.clone() for tensor in parts]
    Engine(tiny_base).run([_row(task, 9, seed=0) for task in tasks])
    assert all(torch.equal(one, other) for one, other in zip(before, parts, strict=True))


def _assert_mixed_equals_alone_on(base: BaseModel, combinations: Sequence[tuple[KindName, AnyMethod]]) -> None:
    texts = ["good", "A longer text, of some twenty tokens, is read beside the short ones: 1, 2, 3.", "東京 🙂 " * 9]
    rows = []
    for seed, (kind, method) in enumerate(combinations):
        resident = make_resident(base, kind=kind, method=method, seed=seed, scale=0.1)
        pairs = texts[::-1] if resident.manifest.head.pair else [None] * 3
        given = [Given(text, other) for text, other in zip(texts, pairs, strict=True)]
        readings = read_for(resident.manifest, base.tokenizer, given)
        rows += [Row(row, resident) for reading in readings for row in reading.rows]
    _assert_mixed_equals_alone(Engine(base), rows)


def _assert_mixed_equals_alone(engine: Engine, rows: list[Row]) -> None:
    _assert_close(engine.run(rows), [alone(engine, row) for row in rows])


def _assert_close(found: Sequence[Floats], expected: Sequence[Floats]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
