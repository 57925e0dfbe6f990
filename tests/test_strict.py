"""What is refused is refused by its first fault: errors listed one by one would cost more than the input."""

import json

import pytest
from pydantic import BaseModel, ValidationError

from service.adapters.manifest import Manifest
from service.api.schemas import PredictRequest
from service.engine.base_model import BaseModel as EncoderBase
from tests.tiny import make_manifest

MANY = 10_000


def faults(model: type[BaseModel], value: object) -> int:
    with pytest.raises(ValidationError) as raised:
        model.model_validate_json(json.dumps(value))
    return raised.value.error_count()


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [1] * MANY},
        {"inputs": [{}] * MANY},
        {"inputs": "x", **{f"field-{i}": 1 for i in range(MANY)}},
        {"inputs": [{"text": "x", **{f"field-{i}": 1 for i in range(MANY)}}]},
    ],
    ids=["inputs", "objects", "fields", "fields of an input"],
)
def test_a_request_of_many_faults_is_refused_by_one(body: object) -> None:
    assert faults(PredictRequest, body) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {f"field-{i}": 1 for i in range(MANY)},
        {"labels": [1] * MANY},
        {"golden": [{"input": {"text": "x"}, "outputs": ["x"] * MANY}]},
        {"method": {"name": "houlsby", **{f"field-{i}": 1 for i in range(MANY)}}},
        {"method": {"name": "houlsby", "layers": [0] * MANY}},
    ],
    ids=["fields", "labels", "golden", "method", "layers"],
)
def test_a_manifest_of_many_faults_is_refused_by_one(tiny_base: EncoderBase, fields: dict[str, object]) -> None:
    manifest = make_manifest(tiny_base).model_dump(mode="json", exclude_none=True)
    assert faults(Manifest, manifest | fields) == 1
