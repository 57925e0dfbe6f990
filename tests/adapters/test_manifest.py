"""The manifest refuses what does not make sense, and names the field."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.adapters.manifest import Calibration, Golden, Input, KindName, parse_manifest
from service.adapters.methods import AnyMethod, Houlsby
from service.engine.base_model import BaseModel
from service.errors import BadAdapter
from service.tasks import expected_shapes
from tests.tiny import KINDS, METHODS, make_manifest


def _with(tiny: BaseModel, /, **fields: Any) -> str:
    return json.dumps(make_manifest(tiny).model_dump(mode="json", exclude_none=True) | fields)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_survives_its_json(tiny_base: BaseModel, method: AnyMethod, kind: KindName) -> None:
    pair = kind != "tagging"
    calibration = Calibration(temperature=0.7, threshold=0.3, none_margin=-1.5, mean=2, deviation=3)
    facts: dict[str, Any] = {"description": "für Köche", "licence": "MIT", "calibration": calibration}
    manifest = make_manifest(tiny_base, kind=kind, method=method, pair=pair, **facts)
    assert parse_manifest(manifest.model_dump_json(exclude_none=True)) == manifest


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"labels": ["a", "b", "a"]}, "labels: 'a' is named twice"),
        ({"labels": ["a"]}, "classification needs at least two, found 1"),
        ({"labels": []}, "classification needs at least two, found 0"),
        ({"labels": ["a", ""]}, r"labels\.1: "),
        ({"labels": ["a", "b" * 201]}, r"labels\.1: "),
        ({"labels": ["a", 1]}, r"labels\.1: "),
        ({"kind": "regression", "labels": ["a", "b"]}, "regression has none, found 2"),
        ({"kind": "embedding", "labels": ["a"]}, "embedding has none, found 1"),
        ({"kind": "multilabel", "labels": []}, "labels: multilabel needs at least one"),
        ({"kind": "tagging", "labels": []}, "labels: tagging needs at least one"),
        ({"kind": "answer", "head": {"pair": True}}, "answer has none, found 2"),
        ({"kind": "tagging", "head": {"pair": True}}, r"head\.pair: tagging reads one text"),
        ({"kind": "answer", "labels": []}, r"head\.pair: answer reads two texts"),
        ({"kind": "poetry"}, "kind: "),
        ({"colour": "red"}, "there is no field colour"),
        ({"format": 2}, "format: "),
        ({"task": "../etc"}, "task: "),
        ({"task": ""}, "task: "),
        ({"task": "Upper"}, "task: "),
        ({"task": ".hidden"}, "task: "),
        ({"task": "end-"}, "task: "),
        ({"task": "a/b"}, "task: "),
        ({"task": "a\n"}, "task: "),
        ({"task": "a" * 65}, "task: "),
        ({"method": {"name": "magic"}}, "method: "),
        ({"method": {}}, "method: "),
        ({"method": {"name": "houlsby", "rank": 4}}, r"method\.houlsby: there is no field rank"),
        ({"method": {"name": "houlsby", "bottleneck": 0}}, r"method\.houlsby\.bottleneck: "),
        ({"method": {"name": "houlsby", "bottleneck": 4097}}, r"method\.houlsby\.bottleneck: "),
        ({"method": {"name": "houlsby", "activation": "mish"}}, r"method\.houlsby\.activation: "),
        ({"method": {"name": "houlsby", "layers": [-1]}}, r"method\.houlsby\.layers\.0: "),
        ({"method": {"name": "pfeiffer", "bottleneck": 0}}, r"method\.pfeiffer\.bottleneck: "),
        ({"method": {"name": "parallel", "init_scale": -1}}, r"method\.parallel\.init_scale: "),
        ({"method": {"name": "lora", "rank": 0}}, r"method\.lora\.rank: "),
        ({"method": {"name": "lora", "rank": 1025}}, r"method\.lora\.rank: "),
        ({"method": {"name": "lora", "alpha": 0}}, r"method\.lora\.alpha: "),
        ({"method": {"name": "lora", "alpha": float("inf")}}, r"method\.lora\.alpha: "),
        ({"method": {"name": "lora", "targets": []}}, r"method\.lora\.targets: "),
        ({"method": {"name": "lora", "targets": ["pooler"]}}, r"method\.lora\.targets\.0: "),
        ({"method": {"name": "prefix", "length": 0}}, r"method\.prefix\.length: "),
        ({"method": {"name": "prefix", "length": 513}}, r"method\.prefix\.length: "),
        ({"method": {"name": "prefix", "layers": [0]}}, r"method\.prefix\.layers: "),
        ({"method": {"name": "head", "bottleneck": 4}}, r"method\.head: there is no field bottleneck"),
        ({"base": {"name": "b", "fingerprint": "0" * 63, "hidden_size": 1, "layers": 1}}, r"base\.fingerprint: "),
        ({"tokenizer": {"max_length": 4}}, r"tokenizer\.max_length: "),
        ({"tokenizer": {"overlap": -1}}, r"tokenizer\.overlap: "),
        ({"head": {"pooling": "max"}}, r"head\.pooling: "),
        ({"calibration": {"temperature": 0}}, r"calibration\.temperature: "),
        ({"calibration": {"temperature": 1e-40}}, r"calibration\.temperature: "),  # zero, as float32 sees it
        ({"calibration": {"temperature": float("nan")}}, r"calibration\.temperature: "),
        ({"calibration": {"temperature": 1001}}, r"calibration\.temperature: "),
        ({"calibration": {"threshold": -0.1}}, r"calibration\.threshold: "),
        ({"calibration": {"threshold": 1.1}}, r"calibration\.threshold: "),
        ({"calibration": {"threshold": float("nan")}}, r"calibration\.threshold: "),
        ({"calibration": {"none_margin": 1e7}}, r"calibration\.none_margin: "),
        ({"calibration": {"none_margin": float("-inf")}}, r"calibration\.none_margin: "),
        ({"calibration": {"none_margin": float("nan")}}, r"calibration\.none_margin: "),
        ({"calibration": {"deviation": -1}}, r"calibration\.deviation: "),
        ({"calibration": {"deviation": 1e300}}, r"calibration\.deviation: "),
        ({"calibration": {"mean": float("nan")}}, r"calibration\.mean: "),
        ({"calibration": {"mean": float("inf")}}, r"calibration\.mean: "),
        ({"golden": [{"input": {"text": "a"}, "outputs": [float("nan")]}]}, r"golden\.0\.outputs\.0: "),
        ({"golden": [{"outputs": [1]}]}, r"golden\.0\.input: "),
        ({"tolerance": 0}, "tolerance: "),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_wrong_field_is_refused_by_its_name(tiny_base: BaseModel, fields: dict[str, Any], cause: str) -> None:
    with pytest.raises(BadAdapter, match=f"^manifest: .*{cause}"):
        parse_manifest(_with(tiny_base, **fields))


@pytest.mark.parametrize("field", ["task", "kind", "method", "base"])
def test_a_manifest_without_a_required_field_is_refused(tiny_base: BaseModel, field: str) -> None:
    fields = json.loads(_with(tiny_base))
    del fields[field]
    with pytest.raises(BadAdapter, match=f"^manifest: {field}: Field required"):
        parse_manifest(json.dumps(fields))


@given(st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?", fullmatch=True))
def test_every_name_of_the_promised_alphabet_is_a_task(tiny_base: BaseModel, name: str) -> None:
    assert parse_manifest(_with(tiny_base, task=name)).task == name


@given(st.text(max_size=300))
def test_no_text_makes_the_parser_raise_anything_else(text: str) -> None:
    with pytest.raises(BadAdapter, match=r"^manifest: "):
        parse_manifest(text)


def test_one_label_is_enough_where_it_may_be_absent(tiny_base: BaseModel) -> None:
    for kind in ("multilabel", "tagging"):
        assert parse_manifest(_with(tiny_base, kind=kind, labels=["spam"])).labels == ["spam"]


def test_golden_outputs_may_be_one_for_every_token_and_label(tiny_base: BaseModel) -> None:
    golden = Golden(input=Input(text="long"), outputs=[0.5] * (256 * 37))
    manifest = make_manifest(tiny_base, kind="tagging", golden=[golden])
    assert parse_manifest(manifest.model_dump_json(exclude_none=True)) == manifest


def test_a_manifest_cannot_be_changed(tiny_base: BaseModel) -> None:
    manifest = make_manifest(tiny_base)
    with pytest.raises(ValueError, match="frozen"):
        manifest.task = "other"  # type: ignore[misc]


@pytest.mark.parametrize(("layers", "cause"), [((0, 0), "a layer twice"), ((0, 2), r"names \[2\], .* layers 0 to 1")])
def test_layers_that_the_base_has_not_are_refused(tiny_base: BaseModel, layers: tuple[int, ...], cause: str) -> None:
    with pytest.raises(BadAdapter, match=f"^manifest: .*{cause}"):
        expected_shapes(make_manifest(tiny_base, method=Houlsby(layers=layers)), tiny_base.dims)
