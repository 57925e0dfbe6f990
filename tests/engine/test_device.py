"""Where the engine runs: asked for, refused, and proved before it serves."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from service.adapters.manifest import KindName
from service.adapters.methods import Prefix
from service.engine import attention, encoder
from service.engine.attention import attend, attend_at_once
from service.engine.base_model import BaseModel, load_base
from service.engine.device import Upload, device_of
from service.engine.device_proof import prove
from service.engine.engine import Engine, Row
from service.engine.layout import chosen, laid_out, why
from service.engine.packing import pack
from service.engine.slots import Grouped
from service.engine.weights import Weights
from service.errors import BadBase
from tests.layouts import load_in
from tests.tiny import KINDS, METHODS, make_resident, random_row

pytestmark = pytest.mark.usefixtures("one_thread")

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
with_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
CUDA = torch.device("cuda")


@without_cuda
def test_auto_is_the_processor_where_there_is_no_gpu(tiny_folder: Path) -> None:
    assert load_base(str(tiny_folder), serving=True, device="auto").device == torch.device("cpu")


@without_cuda
def test_a_gpu_that_is_not_here_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(BadBase, match="device cuda: torch finds none here"):
        load_base(str(tiny_folder), serving=True, device="cuda")


def test_a_device_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="device tpu is not known; choose one of auto, cpu, cuda"):
        device_of("tpu")


def test_each_device_has_its_precisions(tiny_base: BaseModel) -> None:
    weights = tiny_base.weights
    assert chosen("auto", weights, True, CUDA) == "bfloat16"
    assert why("bfloat16", CUDA) == "which the GPU multiplies itself"
    assert [chosen(name, weights, True, CUDA) for name in ("float32", "float16")] == ["float32", "float16"]
    for precision in ("int8", "int16"):
        with pytest.raises(ValueError, match=f"dtype {precision} is for processors"):
            chosen(precision, weights, True, CUDA)
    with pytest.raises(
        ValueError, match="dtype float16 is for device cuda; a processor takes float32, bfloat16, int8 or"
    ):
        chosen("float16", weights, True)


def test_a_base_moves_as_a_whole(tiny_base: BaseModel) -> None:
    moved = tiny_base.weights.on(torch.device("meta"), torch.bfloat16)
    assert {tensor.device.type for tensor in moved.tensors()} == {"meta"}
    assert {tensor.dtype for layer in moved.layers for norm in (layer.attention_norm, layer.ffn_norm) for tensor in norm
            } == {torch.bfloat16}  # fmt: skip
    assert moved.embeddings.word.dtype == torch.float32


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_what_computes_the_same_is_proved(tiny_base: BaseModel, precision: str) -> None:
    prove(tiny_base.weights, _laid(tiny_base, precision))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_an_adapter_in_anothers_slot_is_not_proved(
    tiny_base: BaseModel, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Grouped._own
    monkeypatch.setattr(Grouped, "_own", lambda grouped, stacked: own(grouped, stacked).roll(1, dims=0))
    _assert_refused(tiny_base, precision)


def test_a_row_with_anothers_prefix_is_not_proved(tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(grouped: Grouped, layer: int, rows: Sequence[int]) -> Prefix:
        keys, values = prefix(grouped, layer, rows)
        return Prefix(keys, torch.zeros_like(values))

    prefix = Grouped.prefix
    monkeypatch.setattr(Grouped, "prefix", without)
    _assert_refused(tiny_base)


def test_numbers_that_are_none_are_not_proved(tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Grouped, "_tokens", lambda grouped, x: torch.full_like(x.flatten(0, 1), torch.nan))
    monkeypatch.setattr(Grouped, "_blocks", lambda grouped, x: x[None])
    monkeypatch.setattr(Grouped, "_own", lambda grouped, stacked: stacked[:1])
    _assert_refused(tiny_base)


def test_a_device_that_cannot_run_the_base_says_why(tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(x: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(torch, "bmm", failing)
    with pytest.raises(BadBase, match=r"device cpu cannot run this base: no kernel image is available; see --device"):
        prove(tiny_base.weights, _laid(tiny_base, "float32"))


def _laid(base: BaseModel, precision: str) -> Weights:
    """The base in slots, by the operators that a GPU runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.engine.layout.native.available", lambda precision: False)
        return laid_out(base.weights, precision)


def _assert_refused(base: BaseModel, precision: str = "float32") -> None:
    with pytest.raises(BadBase, match=rf"device cpu in {precision} does not compute what .* is allowed"):
        prove(base.weights, _laid(base, precision))


def _by_rows(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int
) -> Tensor:
    """What `varlen_attn` promises, one row after another: [tokens, heads, ·]."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    sizes = cu_seq_q.diff().tolist()
    assert max(sizes) == max_q == max_k
    assert cu_seq_q[-1] == len(query)
    parts = zip(*(torch.split(x.transpose(0, 1), sizes, dim=1) for x in (query, key, value)), strict=True)
    return torch.cat([torch.nn.functional.scaled_dot_product_attention(*part).transpose(0, 1) for part in parts])


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention in one call, as on a GPU, by torch's description of that call."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", _by_rows)
    monkeypatch.setattr(encoder, "takes_rows_at_once", lambda qkv: True)


@pytest.mark.usefixtures("at_once")
def test_attention_at_once_is_attention() -> None:
    batch = pack([random_row(length) for length in (3, 3, 9, 40)])
    qkv = torch.randn(len(batch.ids), 96, generator=torch.Generator().manual_seed(0))
    found = attend_at_once(qkv, batch.starts_there, batch.longest, 4)
    torch.testing.assert_close(found, attend(qkv, batch.blocks, 4, _none), atol=1e-5, rtol=1e-5)


def _none(rows: Sequence[int]) -> Prefix:
    raise AssertionError("no row has a prefix")


@pytest.mark.parametrize("prefixes", [False, True])
def test_the_engine_answers_the_same_with_attention_at_once(
    tiny_folder: Path, prefixes: bool, request: pytest.FixtureRequest
) -> None:
    base = load_in("slots", str(tiny_folder))
    methods = [method for method in METHODS.values() if prefixes or method.name != "prefix"]
    rows = [
        Row(random_row(5 + number), make_resident(base, method=method, kind=KINDS[number % 4], seed=number))
        for number, method in enumerate(methods)
    ]
    expected = Engine(base).run(rows)
    request.getfixturevalue("at_once")
    for found, other in zip(Engine(base).run(rows), expected, strict=True):
        np.testing.assert_allclose(found, other, atol=1e-4)


def test_attention_at_once_is_for_gpus_only() -> None:
    assert not attention.takes_rows_at_once(torch.zeros(1, 96, dtype=torch.bfloat16))


def test_an_upload_waits_for_what_runs_and_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []

    class Stream:
        def wait_stream(self, other: object) -> None:
            happened.append(f"waits for {other}")

        def synchronize(self) -> None:
            happened.append("is waited for")

    @contextmanager
    def entered(stream: Stream) -> Iterator[None]:
        happened.append("begins")
        yield
        happened.append("ends")

    def pinned(tensor: Tensor) -> Tensor:
        happened.append("is pinned")
        return tensor

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: "batches")
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(Tensor, "pin_memory", pinned)
    target = torch.zeros(3)
    Upload(CUDA).fill(target, torch.ones(3))
    assert happened == ["waits for batches", "begins", "is pinned", "ends", "is waited for"]
    assert target.tolist() == [1, 1, 1]


@with_cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_gpu_answers_as_the_processor_does(tiny_folder: Path, tiny_base: BaseModel, precision: str) -> None:
    there = load_base(str(tiny_folder), precision, serving=True, device="cuda")  # proves itself
    tolerance = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.2}[precision]
    for kind in KINDS:
        for base_rows in zip(*(_rows(base, kind) for base in (there, tiny_base)), strict=True):
            found, expected = (Engine(base).run([row]) for base, row in zip((there, tiny_base), base_rows, strict=True))
            assert np.linalg.norm(found[0] - expected[0]) <= tolerance * (1 + np.linalg.norm(expected[0]))


def _rows(base: BaseModel, kind: KindName) -> list[Row]:
    return [
        Row(random_row(5 + seed), make_resident(base, method=method, kind=kind, seed=seed))
        for seed, method in enumerate(METHODS.values())
    ]
