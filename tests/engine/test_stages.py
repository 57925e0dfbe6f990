"""What tasks have in common is computed once, and nobody's answer changes by it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.adapters.methods import BARE, Adaptation, AnyMethod, Head, Houlsby, Lora, Norm, Pfeiffer, PrefixTuning
from service.engine.bank import Resident, bare_resident
from service.engine.base_model import BaseModel, load_base
from service.engine.engine import Engine, Row
from service.engine.stages import Asked, plan
from service.tasks import TokenizedRow
from tests.tiny import alone, build_tiny, make_resident, random_row

LAYERS = 4
METHODS: list[AnyMethod] = [
    Houlsby(bottleneck=4),
    Houlsby(bottleneck=4, layers=(2, 3)),
    Houlsby(bottleneck=3, layers=(3,)),
    Pfeiffer(bottleneck=4, layers=(1, 3)),
    Lora(rank=2, layers=(2,)),
    PrefixTuning(length=3),
    Head(),
    Head(norms=True, layers=(3,)),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base(str(build_tiny(tmp_path_factory.mktemp("deep"), num_hidden_layers=LAYERS)))


@pytest.fixture(scope="module")
def tasks(base: BaseModel) -> list[Resident]:
    adapted = [make_resident(base, method=method, seed=seed) for seed, method in enumerate([*METHODS, *METHODS])]
    tagger = make_resident(base, method=Head(), kind="tagging", seed=99)
    return [*adapted, tagger, bare_resident(base)]


@given(st.lists(st.tuples(st.integers(0, 17), st.integers(3, 9), st.integers(0, 1)), min_size=1, max_size=30))
def test_rows_of_the_same_texts_are_answered_as_if_alone(
    base: BaseModel, tasks: list[Resident], asked: list[tuple[int, int, int]]
) -> None:
    engine = Engine(base)
    rows = [Row(random_row(length, seed), tasks[task]) for task, length, seed in asked]
    for row, found in zip(rows, engine.run(rows), strict=True):
        np.testing.assert_allclose(found, alone(engine, row), atol=1e-4)


def _from(layer: int | None) -> Adaptation:
    norm = Norm(torch.ones(32), torch.zeros(32))
    return Adaptation() if layer is None else Adaptation(norms={(layer, "ffn"): norm})


@given(
    st.lists(st.tuples(st.one_of(st.none(), st.integers(0, LAYERS - 1)), st.integers(0, 4)), min_size=1, max_size=20)
)
def test_every_layer_computes_each_distinct_row_once(asked: list[tuple[int | None, int]]) -> None:
    texts = [random_row(3 + text, seed=text) for text in range(5)]
    stages, spans = plan([Asked(texts[text], _from(first), 0) for first, text in asked], LAYERS)
    assert [layer for stage in stages for layer in stage.layers] == list(range(LAYERS))
    for stage in stages:
        layer = stage.layers[0]
        own = [3 + text for first, text in asked if first is not None and first <= layer]
        trunks = [3 + text for text in {text for first, text in asked if first is None or first > layer}]
        assert len(stage.batch.ids) == sum(own) + sum(trunks)
        bare = [group for group in stage.groups if group.adaptation is BARE]
        assert len(bare) <= 1
        assert sum(group.tokens.stop - group.tokens.start for group in bare) == sum(trunks)
    for (_, text), (start, end) in zip(asked, spans, strict=True):
        np.testing.assert_array_equal(stages[-1].batch.ids[start:end], texts[text].ids)


def test_rows_with_adapters_everywhere_go_through_in_one_stage(base: BaseModel, tasks: list[Resident]) -> None:
    rows = [Asked(random_row(5), tasks[0].adaptation, 0) for _ in range(3)]
    [stage], spans = plan(rows, LAYERS)
    assert (stage.layers, stage.take) == (range(LAYERS), None)
    assert sorted(spans) == [(0, 5), (5, 10), (10, 15)]


def test_texts_that_differ_in_their_second_half_only_are_two(base: BaseModel, tasks: list[Resident]) -> None:
    row = random_row(8)
    pair = TokenizedRow(row.ids, random_row(8, pair=True).types, truncated=False)
    [stage], spans = plan([Asked(tokens, BARE, 0) for tokens in (row, pair, row)], LAYERS)
    assert len(stage.batch.ids) == 16
    assert spans[0] == spans[2] != spans[1]
