"""The kernels compute what torch computes, and a row's numbers are the same bits whatever shares its batch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from service.adapters.methods import BARE, Adaptation, AnyMethod, Houlsby, Lora, Prefix
from service.engine import native
from service.engine.bank import Resident
from service.engine.base_model import ACTIVATIONS, BaseModel, load_base
from service.engine.encoder import Group, encode
from service.engine.engine import Engine, Row
from service.engine.layout import placed
from service.engine.native import NativeAdaptation, NativeLinear, packed_adaptation
from service.engine.native.adaptation import NOTHING
from service.engine.native.binding import INTEGERS as ALL_INTEGERS
from service.engine.native.frozen import FrozenLinear
from service.engine.native.memory import Blocks
from service.engine.packing import pack
from service.engine.weights import Activation, Distances, Embeddings, Linear
from service.errors import BadBase
from service.tasks import TokenizedRow
from tests.engine.test_engine import TASKS, make_tasks
from tests.layouts import load_in, without_kernels
from tests.tiny import METHODS, make_manifest, make_tensors, random_row

pytestmark = [without_kernels, pytest.mark.usefixtures("one_thread")]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
HERE = [name for name in DTYPES if native.available(name)]
INTEGERS = [name for name in ALL_INTEGERS if native.available(name)]
STEPS = {"int8": 255, "int16": 4095}  # of a token's numbers

sixteens = st.integers(1, 14).map(lambda n: 16 * n)
tokens = st.integers(1, 120)


@pytest.fixture(scope="module")
def served(tiny_folder: Path) -> BaseModel:
    return load_in("native", str(tiny_folder))


@pytest.fixture(scope="module")
def tasks(tiny_base: BaseModel) -> list[Resident]:
    return make_tasks(tiny_base)


@pytest.fixture(scope="module")
def served_tasks(served: BaseModel) -> list[Resident]:
    return make_tasks(served)


@pytest.mark.parametrize("precision", [*HERE, *INTEGERS])
@given(
    n=sixteens, k=sixteens, tokens=tokens, activation=st.sampled_from([None, *ACTIVATIONS.values()]), bias=st.booleans()
)
def test_a_linear_layer_is_torchs(
    precision: str,
    n: int, k: int, tokens: int, activation: Activation | None, bias: bool,
) -> None:  # fmt: skip
    random = torch.Generator().manual_seed(n * k + tokens)
    linear = Linear(torch.randn(n, k, generator=random), torch.randn(n, generator=random) if bias else None)
    dtype = DTYPES.get(precision, torch.float32)
    x = torch.randn(tokens, k, generator=random).to(dtype)
    packed = NativeLinear.of(linear, precision, dtype)
    found = packed(x) if activation is None else packed.activated(x, activation)
    assert found.dtype == dtype
    assert found.shape == (tokens, n)
    expected = F.linear(
        *_as_multiplied(x, linear.weight, precision), linear.bias.double() if linear.bias is not None else None
    )
    if activation is not None:
        expected = activation.function(expected)
    rounding = 2**-8 if dtype == torch.bfloat16 else 1e-5
    # A number halfway between two steps may become either.
    step = 8 / STEPS[precision] * float(linear.weight.abs().max()) if precision in INTEGERS else 0
    torch.testing.assert_close(found.double(), expected, rtol=rounding, atol=1e-5 * k**0.5 + step)


def _as_multiplied(x: Tensor, weight: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """Tokens and weights as the processor multiplies them, in float64."""
    if precision not in INTEGERS:
        return x.double(), weight.to(x.dtype).double()
    kept, steps = ALL_INTEGERS[precision], STEPS[precision]
    least, most = x.float().amin(1, keepdim=True).clamp(max=0), x.float().amax(1, keepdim=True).clamp(min=0)
    width, zero = (most - least, -least) if precision == "int8" else (torch.maximum(-least, most), 0 * least)
    step = width / steps
    zero = (zero / step).round()
    tokens = ((x.float() / step + zero).round() - zero).clamp(-steps, steps).double() * step.double()
    size = weight.abs()
    scale = torch.maximum(
        size.amax(dim=1, keepdim=True) / torch.iinfo(kept).max,
        size.sum(dim=1, keepdim=True) / ((2**31 - 1) // steps - weight.shape[1]),
    )
    return tokens, (weight / scale).round().double() * scale.double()


@pytest.mark.parametrize("precision", INTEGERS)
def test_integers_bear_rows_and_weights_of_zeros(precision: str) -> None:
    linear = Linear(torch.cat([torch.zeros(1, 16), torch.ones(15, 16)]), torch.arange(16.0))
    found = NativeLinear.of(linear, precision, torch.float32)(torch.stack([torch.zeros(16), torch.ones(16)]))
    torch.testing.assert_close(found[0], torch.arange(16.0))
    torch.testing.assert_close(found[1], torch.arange(16.0) + torch.tensor([0.0, *[16.0] * 15]))


@pytest.mark.parametrize("precision", INTEGERS)
@pytest.mark.parametrize("size", [1e-25, 1e-31, 1e-37, 1e-40])
def test_integers_bear_the_smallest_numbers(precision: str, size: float) -> None:
    """As gradients may be."""
    weight = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    found = NativeLinear.of(Linear(weight, None), precision, torch.float32)(torch.full((1, 16), size))
    torch.testing.assert_close(found[0], size * weight.sum(dim=1), rtol=0, atol=0.2 * size + 1e-28)


def test_there_are_no_integers_but_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engine.native.linear.available", lambda precision: precision != "int8")
    with pytest.raises(ValueError, match="no int8 on this processor"):
        NativeLinear.of(Linear(torch.ones(16, 16), None), "int8", torch.float32)


ROWS = st.lists(st.tuples(st.integers(1, 90), st.sampled_from([0, 0, 1, 16, 70])), min_size=1, max_size=6)


@pytest.mark.parametrize("dtype", [DTYPES[name] for name in HERE], ids=HERE)
@given(
    rows=ROWS,
    heads=st.sampled_from([1, 2, 4, 8]),
    distances=st.sampled_from([None, 1, 4]),
)
def test_attention_is_torchs(
    tiny_base: BaseModel,
    dtype: torch.dtype,
    rows: list[tuple[int, int]],
    heads: int,
    distances: int | None,
) -> None:
    random = torch.Generator().manual_seed(len(rows))
    batch = pack([random_row(length) for length, _ in rows], [prefix for _, prefix in rows])
    added = None
    if distances is not None:
        table = torch.randn(heads if distances > 1 else 1, 2 * 100 - 1, generator=random)
        table[:, :40] = -torch.inf  # a window: far keys are out of sight
        added = Distances(table, free=20)
    layers = tuple(layer._replace(distances=added) for layer in tiny_base.weights.layers)
    plain = tiny_base.weights._replace(heads=heads, layers=layers, embeddings=_longer(tiny_base.weights.embeddings))
    adaptations = [_prefixed(heads, prefix, random) for _, prefix in rows]
    groups = list(_groups(batch.starts.tolist(), adaptations))
    packed = [
        group._replace(adaptation=packed_adaptation(group.adaptation, plain.dims, dtype, Blocks())) for group in groups
    ]
    name = "bfloat16" if dtype == torch.bfloat16 else "float32"
    with torch.inference_mode():
        expected = encode(plain.to(dtype), batch, groups)
        found = encode(native.packed_weights(plain, name, dtype), batch, packed)
    if dtype == torch.float32:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    else:
        assert (found - expected).float().norm() < 0.02 * expected.float().norm()


def _longer(embeddings: Embeddings) -> Embeddings:
    """Positions for rows that are longer than the base reads."""
    assert embeddings.position is not None
    return embeddings._replace(position=embeddings.position.repeat(2, 1))


def _prefixed(heads: int, length: int, random: torch.Generator) -> Adaptation:
    if not length:
        return BARE
    return Adaptation(
        prefixes={layer: Prefix(*torch.randn(2, heads, length, 32 // heads, generator=random)) for layer in range(2)}
    )


def _groups(starts: Sequence[int], adaptations: Sequence[Adaptation]) -> Iterator[Group]:
    for number, adaptation in enumerate(adaptations):
        yield Group(slice(number, number + 1), slice(starts[number], starts[number + 1]), adaptation)


BATCHES = st.lists(st.tuples(st.integers(0, TASKS - 1), st.integers(3, 64), st.integers(0, 3)), min_size=1, max_size=16)


@given(batch=BATCHES)
def test_every_adapter_answers_as_in_torch(
    tiny_base: BaseModel, tasks: list[Resident], served: BaseModel, served_tasks: list[Resident],
    batch: list[tuple[int, int, int]],
) -> None:  # fmt: skip
    here, there = (
        [
            Row(random_row(length, seed, pair=among[task].manifest.head.pair), among[task])
            for task, length, seed in batch
        ]
        for among in (served_tasks, tasks)
    )
    for found, expected in zip(Engine(served).run(here), Engine(tiny_base).run(there), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", [*HERE, *INTEGERS])
@given(rows=st.lists(st.tuples(st.sampled_from(list(METHODS)), st.integers(1, 64)), min_size=1, max_size=12))
def test_a_rows_vectors_are_the_same_bits_alone_and_in_a_batch(
    adapted: Callable[[str], tuple[BaseModel, Mapping[str, NativeAdaptation]]],
    precision: str,
    rows: list[tuple[str, int]],
) -> None:
    base, adaptations = adapted(precision)
    given = [(random_row(length, number), adaptations[name]) for number, (name, length) in enumerate(rows)]
    alone = torch.cat([_encode(base, [one]) for one in given])
    assert torch.equal(_encode(base, given), alone)


@pytest.mark.parametrize("precision", [*HERE, *INTEGERS])
def test_threads_change_no_bit(
    adapted: Callable[[str], tuple[BaseModel, Mapping[str, NativeAdaptation]]], precision: str
) -> None:
    base, adaptations = adapted(precision)
    rows = [(random_row(length, length), adaptation) for length in (3, 64) for adaptation in adaptations.values()]
    expected = _encode(base, rows)
    torch.set_num_threads(2)
    assert torch.equal(_encode(base, rows), expected)
    torch.set_num_threads(1)


def test_rows_longer_than_a_threads_part_leave_some_parts_empty(real_base: BaseModel) -> None:
    base = load_base(real_base.name, "float32", serving=True)
    rows = [(random_row(length, length), NOTHING) for length in (250, 250, 30)]
    expected = torch.cat([_encode(base, [row]) for row in rows])
    torch.set_num_threads(2)
    assert torch.equal(_encode(base, rows), expected)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def adapted(tiny_folder: Path) -> Callable[[str], tuple[BaseModel, Mapping[str, NativeAdaptation]]]:
    """By precision, a base and adapters of every method."""

    @cache
    def of(precision: str) -> tuple[BaseModel, Mapping[str, NativeAdaptation]]:
        base = load_base(str(tiny_folder), precision, serving=True)
        return base, {name: _adapted(base, method) for name, method in METHODS.items()}

    return of


def _adapted(base: BaseModel, method: AnyMethod) -> NativeAdaptation:
    v = make_tensors(base, make_manifest(base, kind="embedding", method=method), seed=3)
    return _placed(base, method.adapt(base.dims, v, None))


def _placed(base: BaseModel, adaptation: Adaptation) -> NativeAdaptation:
    found = placed(base.weights, adaptation)
    assert isinstance(found, NativeAdaptation)
    return found


def _encode(base: BaseModel, rows: Sequence[tuple[TokenizedRow, NativeAdaptation]]) -> Tensor:
    batch = pack([row for row, _ in rows], [adaptation.prefix_length for _, adaptation in rows])
    starts = batch.starts.tolist()
    groups = [
        Group(slice(number, number + 1), slice(starts[number], starts[number + 1]), adaptation)
        for number, (_, adaptation) in enumerate(rows)
    ]
    with torch.inference_mode():
        return encode(base.weights, batch, groups)


@pytest.mark.parametrize("precision", INTEGERS)
@given(k=st.sampled_from([16, 400, 3072, 66_400]), some=st.floats(0, 1), seed=st.integers(0, 9))
def test_sums_of_integers_do_not_overflow(precision: str, k: int, some: float, seed: int) -> None:
    """However large the weights and the numbers of a token are together."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.where(torch.rand(16, k, generator=random) < some, 1.0, torch.rand(16, k, generator=random))
    x = torch.where(torch.rand(2, k, generator=random) < some, 1.0, torch.rand(2, k, generator=random))
    weight[0] *= -1
    found = NativeLinear.of(Linear(weight, None), precision, torch.float32)(x)
    torch.testing.assert_close(found, F.linear(x, weight), rtol=0.1, atol=1e-3)


@pytest.mark.parametrize("precision", INTEGERS)
@given(n=sixteens, k=sixteens, tokens=tokens)
def test_a_frozen_layer_hands_the_gradient_back(precision: str, n: int, k: int, tokens: int) -> None:
    random = torch.Generator().manual_seed(n * k + tokens)
    linear = Linear(torch.randn(n, k, generator=random), torch.randn(n, generator=random))
    x = torch.randn(tokens, k, generator=random, requires_grad=True)
    target = torch.randn(tokens, n, generator=random)
    (expected,) = torch.autograd.grad((linear(x) * target).sum(), x)
    frozen = FrozenLinear.of(linear, precision)
    assert (frozen.shape, frozen.dtype) == (linear.shape, torch.float32)
    (found,) = torch.autograd.grad((frozen(x) * target).sum(), x)
    near = {"int8": 0.1, "int16": 0.005}[precision]
    assert float((found - expected).norm()) < near * float(expected.norm())


LOST = {"int8": 0.05, "int16": 0.003}  # of the answers' length


@pytest.mark.parametrize("precision", INTEGERS)
def test_integers_answer_closely(precision: str, tiny_base: BaseModel, tiny_folder: Path) -> None:
    rough = load_base(str(tiny_folder), precision, serving=True)
    assert rough.weights.native
    assert rough.bytes < 0.7 * tiny_base.bytes
    exact, close = (
        np.concatenate(
            [output.ravel() for output in Engine(base).run([Row(random_row(20), task) for task in make_tasks(base)])]
        )
        for base in (tiny_base, rough)
    )
    assert 0 < np.linalg.norm(exact - close) < LOST[precision] * np.linalg.norm(exact)


@pytest.mark.parametrize("precision", ["int8", "int16"])
def test_integers_are_for_serving(precision: str, tiny_folder: Path) -> None:
    with pytest.raises(BadBase, match=f"a base in {precision} is for serving"):
        load_base(str(tiny_folder), precision)


@pytest.mark.parametrize(
    ("precision", "needed"), [("int8", "AVX-512 VNNI"), ("int16", "AVX-512 VNNI, or AVX2 without AVX-512")]
)
def test_integers_need_the_kernels(
    precision: str, needed: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "available", lambda precision: False)
    with pytest.raises(BadBase, match=f"{precision} needs a processor with {needed}, and the kernels"):
        load_base(str(tiny_folder), precision, serving=True)


@pytest.mark.parametrize(
    ("dtype", "method", "most"),
    [
        (torch.float32, Houlsby(), 1.01), (torch.float32, Lora(rank=16), 1.01),
        (torch.bfloat16, Houlsby(), 1.03), (torch.bfloat16, Lora(rank=16), 1.01),
        (torch.int16, Houlsby(), 1.05), (torch.int16, Lora(rank=16), 1.08),
    ],
)  # fmt: skip
def test_a_packed_adapter_takes_little_more_memory_than_its_numbers(
    dtype: torch.dtype, method: AnyMethod, most: float, real_base: BaseModel
) -> None:
    v = make_tensors(real_base, make_manifest(real_base, kind="embedding", method=method))
    packed = packed_adaptation(method.adapt(real_base.dims, v, None), real_base.dims, dtype, Blocks())
    assert packed.nbytes <= most * sum(tensor.numel() for tensor in v.values()) * dtype.itemsize


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("precision", [*HERE, *INTEGERS])
def test_an_adapter_stored_in_any_dtype_is_the_adapter_of_those_numbers(
    precision: str, stored: torch.dtype, tiny_folder: Path
) -> None:
    base = load_base(str(tiny_folder), precision, serving=True)
    row = random_row(20)
    for method in METHODS.values():
        v = {
            name: tensor.to(stored)
            for name, tensor in make_tensors(base, make_manifest(base, kind="embedding", method=method), seed=3).items()
        }
        own = {name: tensor.float() for name, tensor in v.items()}
        found, expected = (_placed(base, method.adapt(base.dims, tensors, None)) for tensors in (v, own))
        assert torch.equal(_encode(base, [(row, found)]), _encode(base, [(row, expected)]))


def test_memory_that_was_let_go_is_used_again_and_never_while_it_is_needed(tiny_base: BaseModel) -> None:
    blocks = Blocks()
    v = make_tensors(tiny_base, make_manifest(tiny_base, kind="embedding", method=Houlsby()))

    def packed() -> NativeAdaptation:
        return packed_adaptation(Houlsby().adapt(tiny_base.dims, v, None), tiny_base.dims, torch.float32, blocks)

    kept = [packed() for _ in range(3)]
    addresses = {one.memory.ctypes.data for one in kept}
    assert len(addresses) == 3
    del kept[1]
    assert packed().memory.ctypes.data in addresses - {one.memory.ctypes.data for one in kept}
