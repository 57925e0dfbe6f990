"""The proof: what an adapter must show in the engine before it lives, and what a refusal says."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from service.adapters.file import read_header, read_tensors, write_adapter
from service.adapters.manifest import Input, KindName
from service.adapters.methods import AnyMethod, Head, Lora
from service.engine import native
from service.engine.arranging import load_resident
from service.engine.bank import Resident
from service.engine.base_model import BaseModel, load_base
from service.engine.engine import Engine, Row
from service.engine.layout import INTEGERS
from service.errors import BadAdapter, EngineFault
from service.registry.proof import Proof, Prover, Run
from service.registry.registry import Registry
from service.tasks import Floats
from tests.adapters.forge import put_together, take_apart, with_manifest
from tests.registry.disks import listing
from tests.tiny import KINDS, METHODS, make_adapter, make_resident

GOLDEN = (Input(text="the film was good"), Input(text="never again, really"), Input(text="a dog"))
PAIRS = tuple(Input(text=one.text, text_pair="the food is awful") for one in GOLDEN)
Outputs = list[Floats]


def proved(base: BaseModel, data: bytes, others: Sequence[Resident] = (), run: Run | None = None) -> Proof:
    return Prover(base, run or Engine(base).run).prove(load_resident(base, data, 0), sealed=True, others=others)


def refusal(base: BaseModel, data: bytes, others: Sequence[Resident] = (), run: Run | None = None) -> BadAdapter:
    with pytest.raises(BadAdapter) as caught:
        proved(base, data, others, run)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_right_adapters_of_every_kind_and_method_are_proved(
    tiny_base: BaseModel, kind: KindName, method: AnyMethod
) -> None:
    golden = PAIRS if kind == "answer" else GOLDEN
    proof = proved(
        tiny_base,
        make_adapter(tiny_base, kind=kind, method=method, golden=golden),
        [make_resident(tiny_base, seed=seed) for seed in (1, 2)],
    )
    assert (proof.golden, proof.strangers, proof.precision) == (3, 2, "float32")
    assert proof.off is not None
    assert proof.off < 1e-4
    assert (proof.change is None) == (method == Head())


@pytest.mark.parametrize("pair", [False, True])
def test_a_file_without_golden_examples_is_proved_by_probes(tiny_base: BaseModel, pair: bool) -> None:
    proof = proved(tiny_base, make_adapter(tiny_base, pair=pair))
    assert (proof.golden, proof.off, proof.tolerance) == (0, None, None)
    assert proof.change is not None
    assert proof.change > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_a_golden_example_that_comes_out_otherwise_is_named_with_what_was_expected(
    tiny_base: BaseModel, kind: KindName
) -> None:
    data = make_adapter(tiny_base, kind=kind, golden=PAIRS if kind == "answer" else GOLDEN)
    golden = [one.model_dump(mode="json", exclude_none=True) for one in read_header(data).manifest.golden]
    true = golden[1]["outputs"][0]
    golden[1]["outputs"][0] = true + 0.5
    error = refusal(tiny_base, with_manifest(data, golden=golden))
    assert error.facts == {
        "step": "golden",
        "example": 1,
        "expected": pytest.approx(true + 0.5, abs=1e-4),
        "got": pytest.approx(true, abs=1e-4),
    }
    assert "golden example 1: output 0 is" in error.detail


def test_a_regression_is_measured_in_the_units_of_its_head(tiny_base: BaseModel) -> None:
    calibration = {"mean": 1000.0, "deviation": 500.0}
    data = make_adapter(tiny_base, kind="regression", calibration=calibration, golden=GOLDEN)
    golden = [one.model_dump(mode="json", exclude_none=True) for one in read_header(data).manifest.golden]
    golden[0]["outputs"][0] += 5.0
    assert proved(tiny_base, with_manifest(data, golden=golden)).off == pytest.approx(0.01, abs=1e-3)
    golden[0]["outputs"][0] += 10.0
    assert "off by 0.03, at most 0.02 is allowed" in refusal(tiny_base, with_manifest(data, golden=golden)).detail


def test_a_wrong_tensor_of_the_right_shape_is_found_without_a_seal(tiny_base: BaseModel) -> None:
    data = make_adapter(tiny_base, golden=GOLDEN)
    header = read_header(data)
    tensors = read_tensors(data, header)
    one, other = "layers.0.ffn.up.weight", "layers.1.ffn.up.weight"
    swapped = write_adapter(header.manifest, tensors | {one: tensors[other], other: tensors[one]})
    assert refusal(tiny_base, swapped).facts["step"] == "golden"


@pytest.mark.parametrize(
    ("golden", "facts", "cause"),
    [
        ({"input": {"text": "a", "text_pair": "b"}, "outputs": [0.5, 0.5]}, {}, "not what the task reads: one text"),
        ({"input": {"text": "a"}, "outputs": [0.5] * 3}, {"expected": 2, "got": 3}, "3 outputs, the task gives 2"),
        ({"input": {"text": "a"}, "outputs": []}, {"expected": 2, "got": 0}, "0 outputs, the task gives 2"),
    ],
)
def test_golden_examples_that_are_none_are_refused_before_anything_runs(
    tiny_base: BaseModel, golden: Any, facts: dict[str, int], cause: str
) -> None:
    def run(rows: Sequence[Row]) -> Outputs:
        raise AssertionError("nothing may run")

    error = refusal(tiny_base, with_manifest(make_adapter(tiny_base), golden=[golden]), run=run)
    assert error.facts == {"step": "golden", "example": 0} | facts
    assert cause in error.detail


def test_an_adapter_that_changes_nothing_is_refused(tiny_base: BaseModel) -> None:
    data = make_adapter(tiny_base, method=Lora(rank=2))
    header = read_header(data)
    idle = {
        name: 0 * tensor if name.startswith("layers") and ".up." in name else tensor
        for name, tensor in read_tensors(data, header).items()
    }
    error = refusal(tiny_base, write_adapter(header.manifest, idle))
    assert error.facts == {"step": "change"}
    assert "those of the bare base under the same head" in error.detail


def test_an_engine_that_mixes_rows_up_is_noticed(tiny_base: BaseModel) -> None:
    data, others = make_adapter(tiny_base), [make_resident(tiny_base, seed=seed) for seed in (1, 2)]

    def run(rows: Sequence[Row]) -> Outputs:
        """Where the candidate shares a batch, it gets its neighbours' answers."""
        found = Engine(tiny_base).run(rows)
        together = {id(row.resident) for row in rows}
        return [found[(i + 1) % len(rows)] if len(together) == 4 and i % 4 == 0 else one for i, one in enumerate(found)]

    error = refusal(tiny_base, data, others, run)
    assert error.facts["step"] == "mixture"
    assert "its own come out otherwise than without" in error.detail


def test_an_adapter_that_disturbs_its_neighbours_is_refused(tiny_base: BaseModel) -> None:
    data, others = make_adapter(tiny_base), [make_resident(tiny_base, seed=1)]

    def run(rows: Sequence[Row]) -> Outputs:
        found = Engine(tiny_base).run(rows)
        mixed = len({id(row.resident) for row in rows}) == 3
        return [found[i] + mixed * (row.resident is others[0]) for i, row in enumerate(rows)]

    error = refusal(tiny_base, data, others, run)
    assert error.facts["step"] == "mixture"
    assert "those come out otherwise" in error.detail


def test_a_stranger_that_puts_out_no_numbers_is_nobody_elses_fault(tiny_base: BaseModel) -> None:
    others = [make_resident(tiny_base, seed=1)]

    def run(rows: Sequence[Row]) -> Outputs:
        return [
            np.full_like(found, np.nan) if row.resident is others[0] else found
            for row, found in zip(rows, Engine(tiny_base).run(rows), strict=True)
        ]

    assert proved(tiny_base, make_adapter(tiny_base), others, run).strangers == 1


def test_what_cannot_be_proved_changes_nothing(
    tiny_base: BaseModel, registry: Registry, files: list[bytes], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.upload("toy", files[0])
    before = listing(tmp_path), registry.task("toy"), set(registry.residents())

    def broken(engine: Engine, rows: Sequence[Row]) -> Outputs:
        raise EngineFault("the engine failed")

    monkeypatch.setattr(Engine, "run", broken)
    with pytest.raises(EngineFault):
        registry.upload("toy", files[1])
    assert (listing(tmp_path), registry.task("toy"), set(registry.residents())) == before


def test_a_version_found_in_the_store_is_proved_before_it_is_activated(
    registry: Registry, reopen: Callable[[], Registry], tiny_base: BaseModel, files: list[bytes], tmp_path: Any
) -> None:
    registry.upload("toy", files[0])
    good = make_adapter(tiny_base, golden=GOLDEN)
    golden = [one.model_dump(mode="json", exclude_none=True) for one in read_header(good).manifest.golden]
    golden[0]["outputs"] = [0.5, 0.5]
    (tmp_path / "toy-2.safetensors").write_bytes(with_manifest(good, golden=golden, tolerance=1e-6))
    (tmp_path / "toy-3.safetensors").write_bytes(good)
    header, payload = take_apart(good)
    (tmp_path / "toy-4.safetensors").write_bytes(put_together(header, payload[::-1]))
    again = reopen()
    assert [again.task("toy").versions[number].proof is None for number in (1, 2, 3)] == [False, True, True]
    for number, cause in ((2, "golden example 0"), (4, "not as it was written|not finite")):
        with pytest.raises(BadAdapter, match=cause):
            again.activate("toy", number)
        assert again.resident("toy").version == 1
    again.activate("toy", 3)
    for one in (again, reopen()):
        assert one.resident("toy").version == 3
        proof = one.task("toy").versions[3].proof
        assert proof is not None
        assert proof.golden == 3


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8", "int16"])
def test_a_service_of_any_precision_proves_what_was_trained_in_float32(
    tiny_folder: Any, tiny_base: BaseModel, precision: str
) -> None:
    if precision in INTEGERS and not native.available(precision):
        pytest.skip(f"no {precision} on this processor")
    base = load_base(str(tiny_folder), dtype=precision, serving=True)
    data = make_adapter(tiny_base, golden=GOLDEN, scale=0.1)
    others = [make_resident(base, seed=seed) for seed in (1, 2)]
    proof = proved(base, data, others)
    assert (proof.precision, proof.golden, proof.strangers) == (precision, 3, 2)
