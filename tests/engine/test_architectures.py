"""Every architecture the engine knows gives what `transformers` gives, without padding."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from service.adapters.methods import BARE
from service.engine.architectures import ARCHITECTURES
from service.engine.base_model import DEFAULT_BASE, BaseModel, load_base, locate
from service.engine.encoder import Group, encode
from service.engine.packing import pack
from service.tasks.reading import TokenizedRow, tokenize
from tests.tiny import CONFIGS, build_tiny, random_row

LENGTHS = (3, 17, 3, 64, 5, 17, 40)


def test_every_architecture_is_compared_with_transformers() -> None:
    assert set(CONFIGS) == set(ARCHITECTURES)


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("checkpoint"), request.param)


def test_packed_rows_of_mixed_lengths_equal_transformers(checkpoint: Path) -> None:
    base = load_base(str(checkpoint))
    rows = [random_row(length, seed) for seed, length in enumerate(LENGTHS)]
    _assert_equal(base, rows, _transformers(checkpoint))


def test_packed_pairs_equal_transformers(checkpoint: Path) -> None:
    base = load_base(str(checkpoint))
    pairs = ["bad food", "never again, really", ""]
    rows = tokenize(base.tokenizer, ["the film was great!", "a book", "rain"], pairs, max_length=64)
    _assert_equal(base, rows, _transformers(checkpoint))


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"])
def test_every_activation_equals_transformers(tmp_path: Path, activation: str) -> None:
    build_tiny(tmp_path, hidden_act=activation)
    _assert_equal(load_base(str(tmp_path)), [random_row(9), random_row(4)], _transformers(tmp_path))


def test_another_epsilon_and_number_of_heads_equal_transformers(tmp_path: Path) -> None:
    build_tiny(tmp_path, layer_norm_eps=0.1, num_attention_heads=2)
    _assert_equal(load_base(str(tmp_path)), [random_row(9), random_row(4)], _transformers(tmp_path))


def test_a_base_reads_as_many_tokens_as_it_has_positions(checkpoint: Path) -> None:
    base = load_base(str(checkpoint))
    assert base.max_length == 64
    _assert_equal(base, [random_row(64)], _transformers(checkpoint))


def test_the_real_base_equals_transformers(real_base: BaseModel) -> None:
    texts = ["Rootstock", "Ein Süppchen für zwei: 3,50 €", "one frozen base, many adapters " * 20, "東京 🙂"]
    rows = tokenize(real_base.tokenizer, texts, None, max_length=128)
    source = locate(DEFAULT_BASE)
    tokenizer = AutoTokenizer.from_pretrained(source)
    assert [row.ids.tolist() for row in rows] == tokenizer(texts, truncation=True, max_length=128)["input_ids"]
    _assert_equal(real_base, rows, _transformers(Path(source)))


def _transformers(folder: Path) -> Any:
    return AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def _assert_equal(base: BaseModel, rows: list[TokenizedRow], model: Any) -> None:
    with torch.inference_mode():
        found = encode(base.weights, pack(rows), [Group(slice(None), slice(None), BARE)])
        expected = torch.cat(list(_one_by_one(model, rows)))
    assert expected.std() > 0.1  # not so degenerate that anything would be equal
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def _one_by_one(model: Any, rows: list[TokenizedRow]) -> Iterator[Tensor]:
    for row in rows:
        inputs = {"input_ids": torch.from_numpy(row.ids)[None]}
        if row.types.any():
            inputs["token_type_ids"] = torch.from_numpy(row.types)[None]
        if model.config.model_type == "distilbert":
            inputs.pop("token_type_ids", None)
        yield model(**inputs).last_hidden_state[0]
