"""The base: refused by name where the engine cannot run it, and known by what it computes."""

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file, save_file

from service.adapters.methods import Dims
from service.engine.base_model import DEFAULT_BASE, BaseModel, load_base, locate
from service.engine.prepacked import PrepackedLinear
from service.engine.weights import Linear
from service.errors import BadBase
from tests.layouts import Layout, every_layout, load_in
from tests.tiny import BERT_SPECIAL, build_tiny, save_tokenizer, tiny_tokenizer

Change = Callable[[Path], object]


def _config(**fields: object) -> Change:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return change


def _weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def _without(*names: str) -> Change:
    def change(folder: Path) -> None:
        for name in names:
            folder.joinpath(name).unlink()

    return change


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _more_words(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["zeitgeist"])
    save_tokenizer(tokenizer, BERT_SPECIAL, folder)


QUERY = "encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (_config(model_type="gpt2"), "is of type gpt2; the engine runs bert, camembert, distilbert"),
        (_config(hidden_act="mish"), "uses activation mish; the engine knows gelu"),
        (_config(position_embedding_type="relative_key"), "uses relative_key positions"),
        (_config(is_decoder=True), "is a decoder"),
        (_config(num_attention_heads=5), "cannot be loaded: .*not a multiple of the number of attention heads"),
        (_config(num_hidden_layers=3), r"lacks encoder\.layer\.2\..* 16 weights in all"),
        (_config(vocab_size=7), "cannot be loaded: "),
        (_weights(lambda tensors: tensors.pop(QUERY)), "lacks encoder.layer.1.attention.self.query.weight"),
        (_without("config.json"), "cannot be loaded: .*model_type"),
        (_without("model.safetensors"), r"cannot be loaded: .*model\.safetensors"),
        (_without("tokenizer.json", "tokenizer_config.json"), "its tokenizer knows no word"),
        (_more_words, r"its tokenizer numbers (\d+) tokens, its weights"),
        (_cut, "cannot be loaded: "),
        (lambda folder: folder.joinpath("config.json").write_text("{"), "cannot be loaded: .*not a valid JSON"),
        (lambda folder: folder.joinpath("tokenizer.json").write_text("{}"), "cannot be loaded: "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_base_that_the_engine_cannot_run_is_refused(
    tiny_folder: Path, tmp_path: Path, change: Change, cause: str
) -> None:
    folder = copytree(tiny_folder, tmp_path / "base")
    change(folder)
    with pytest.raises(BadBase, match=f"base model {folder}.*{cause}"):
        load_base(str(folder))


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "~/nowhere"])
def test_a_folder_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(BadBase, match=f"{name}: there is no such folder"):
        load_base(name)


def test_a_dtype_that_is_not_known_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(
        BadBase, match="dtype float64 is not known; choose one of auto, float32, bfloat16, float16, int8, int16"
    ):
        load_base(str(tiny_folder), dtype="float64")


def test_the_default_base_comes_from_its_package_without_a_hub() -> None:
    assert Path(locate(DEFAULT_BASE), "model.safetensors").is_file()


def test_the_real_base_has_the_promised_size(real_base: BaseModel) -> None:
    assert real_base.name == DEFAULT_BASE
    assert real_base.dims == Dims(layers=6, hidden=384, inner=1536, heads=12)
    assert real_base.parameters == pytest.approx(22.6e6, rel=0.01)  # 22.7 M with the pooler, which is not used
    assert real_base.bytes == 4 * real_base.parameters


def test_the_same_weights_elsewhere_are_the_same_base(tiny_base: BaseModel, tiny_folder: Path, tmp_path: Path) -> None:
    moved = load_base(str(copytree(tiny_folder, tmp_path / "other-name")))
    assert moved.name == "other-name"
    assert moved.fingerprint == tiny_base.fingerprint
    assert moved.identity.fingerprint == tiny_base.fingerprint


def test_precision_does_not_change_who_the_base_is(tiny_base: BaseModel, tiny_folder: Path) -> None:
    assert load_base(str(tiny_folder), dtype="bfloat16").fingerprint == tiny_base.fingerprint


def _one_bit(tensors: dict[str, torch.Tensor]) -> None:
    tensors[QUERY].view(torch.int32)[3, 4] ^= 1


def _another_word(folder: Path) -> None:
    file = folder / "tokenizer.json"
    text = file.read_text()
    assert '"really"' in text
    file.write_text(text.replace('"really"', '"hardly"'))


def _case_sensitive(folder: Path) -> None:
    file = folder / "tokenizer.json"
    text = file.read_text()
    assert '"lowercase": true' in text
    file.write_text(text.replace('"lowercase": true', '"lowercase": false'))


@pytest.mark.parametrize("change", [_weights(_one_bit), _another_word, _case_sensitive], ids=["weight", "word", "case"])
def test_the_slightest_change_makes_another_base(
    tiny_base: BaseModel, tiny_folder: Path, tmp_path: Path, change: Change
) -> None:
    folder = copytree(tiny_folder, tmp_path / "base")
    change(folder)
    assert load_base(str(folder)).fingerprint != tiny_base.fingerprint


def test_an_equal_shape_is_not_an_equal_base(tiny_base: BaseModel, tmp_path: Path) -> None:
    other = load_base(str(build_tiny(tmp_path, seed=1)))
    assert other.dims == tiny_base.dims
    assert other.fingerprint != tiny_base.fingerprint


def test_positions_of_a_type_that_is_not_known_are_refused(tmp_path: Path) -> None:
    folder = build_tiny(tmp_path, "modernbert")
    kinds = {
        kind: {"rope_type": "linear", "rope_theta": 10_000, "factor": 2.0}
        for kind in ("full_attention", "sliding_attention")
    }
    _config(rope_parameters=kinds)(folder)
    with pytest.raises(BadBase, match="uses rotary positions of type linear"):
        load_base(str(folder))


def test_another_window_makes_another_base(tmp_path: Path) -> None:
    one = load_base(str(build_tiny(tmp_path / "one", "modernbert")))
    other = load_base(str(build_tiny(tmp_path / "other", "modernbert", local_attention=8)))
    assert one.fingerprint != other.fingerprint


@every_layout
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_base_laid_out_for_serving_is_the_same_and_no_larger(tiny_folder: Path, dtype: str, layout: Layout) -> None:
    plain, packed = load_base(str(tiny_folder), dtype), load_in(layout, str(tiny_folder), dtype)
    assert (packed.fingerprint, packed.dims, packed.weights.dtype, packed.parameters) == (
        plain.fingerprint, plain.dims, plain.weights.dtype, plain.parameters
    )  # fmt: skip
    biases = sum(layer.qkv.shape[0] + 2 * 32 + layer.ffn_in.shape[0] for layer in plain.weights.layers)
    assert packed.bytes <= plain.bytes + 2 * biases  # which the kernels read in float32


def test_without_the_processors_operators_the_base_stays_as_it_is(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PrepackedLinear, "of", _not_here)
    base = load_in("slots", str(tiny_folder))
    assert all(isinstance(layer.qkv, Linear) for layer in base.weights.layers)


def _not_here(linear: object) -> None:
    raise RuntimeError("no such operator on this processor")
