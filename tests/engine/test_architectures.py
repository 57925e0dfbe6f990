"""Every architecture the engine knows gives what `transformers` gives, without padding."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from service.adapters.file import write_adapter
from service.adapters.methods import BARE, Adaptation, AnyMethod, Houlsby, Lora
from service.engine import native
from service.engine.architectures import ARCHITECTURES
from service.engine.arranging import load_resident
from service.engine.base_model import DEFAULT_BASE, BaseModel, load_base, locate
from service.engine.encoder import Group, encode
from service.engine.engine import Engine, Row
from service.engine.layout import placed
from service.engine.packing import pack
from service.tasks.reading import TokenizedRow, tokenize
from service.training.models import AdapterModel
from tests.layouts import Layout, every_layout, load_in
from tests.tiny import (
    CONFIGS,
    METHODS,
    alone,
    build_tiny,
    make_manifest,
    make_resident,
    make_tensors,
    random_row,
)

LENGTHS = (3, 17, 3, 64, 5, 17, 40)


def test_every_architecture_is_compared_with_transformers() -> None:
    assert set(CONFIGS) == set(ARCHITECTURES)


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("checkpoint"), request.param)


@every_layout
def test_packed_rows_of_mixed_lengths_equal_transformers(checkpoint: Path, layout: Layout) -> None:
    base = load_in(layout, str(checkpoint))
    rows = [random_row(length, seed) for seed, length in enumerate(LENGTHS)]
    _assert_equal(base, rows, _transformers(checkpoint))


def test_packed_pairs_equal_transformers(checkpoint: Path) -> None:
    base = load_base(str(checkpoint))
    pairs = ["bad food", "never again, really", ""]
    rows = tokenize(base.tokenizer, ["the film was great!", "a book", "rain"], pairs, max_length=64)
    _assert_equal(base, rows, _transformers(checkpoint))


@every_layout
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"])
def test_every_activation_equals_transformers(tmp_path: Path, activation: str, layout: Layout) -> None:
    build_tiny(tmp_path, hidden_act=activation)
    base = load_in(layout, str(tmp_path))
    _assert_equal(base, [random_row(9), random_row(4)], _transformers(tmp_path))


@every_layout
def test_another_epsilon_and_number_of_heads_equal_transformers(tmp_path: Path, layout: Layout) -> None:
    build_tiny(tmp_path, layer_norm_eps=0.1, num_attention_heads=2)
    _assert_equal(load_in(layout, str(tmp_path)), [random_row(9), random_row(4)], _transformers(tmp_path))


def test_a_base_reads_as_many_tokens_as_it_has_positions(checkpoint: Path) -> None:
    base = load_base(str(checkpoint))
    assert base.max_length == 64
    _assert_equal(base, [random_row(64)], _transformers(checkpoint))


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("mpnet", {"max_position_embeddings": 402}),  # distances beyond the last bucket's
        ("modernbert", {"attention_bias": True, "mlp_bias": True, "norm_bias": True}),
        ("modernbert", {"max_position_embeddings": 400, "local_attention": 128, "num_hidden_layers": 4}),
        ("electra", {"embedding_size": 32}),
    ],
)
@every_layout
def test_what_a_config_may_change_equals_transformers(
    tmp_path: Path, model_type: str, config: dict[str, Any], layout: Layout
) -> None:
    build_tiny(tmp_path, model_type, **config)
    base = load_in(layout, str(tmp_path))
    rows = [random_row(length, seed) for seed, length in enumerate((2, 40, base.max_length, 9))]
    _assert_equal(base, rows, _transformers(tmp_path))


@every_layout
def test_bottlenecks_and_norms_enter_where_the_paper_puts_them(checkpoint: Path, layout: Layout) -> None:
    """After each sub-layer's projection, before the residual; then the LayerNorm that follows, which is the task's."""
    base, method = load_in(layout, str(checkpoint)), Houlsby(bottleneck=3, activation="tanh")
    v = make_tensors(base, make_manifest(base, method=method))
    model, names = _transformers(checkpoint), _names(checkpoint)
    for index in range(base.dims.layers):
        for place, out, norm in (("attention", "attention_out", "attention_norm"), ("ffn", "ffn_out", "ffn_norm")):
            site = f"layers.{index}.{place}"

            def adapt(module: Any, entered: Any, left: Tensor, site: str = site) -> Tensor:
                inner = torch.tanh(F.linear(left, v[f"{site}.down.weight"], v[f"{site}.down.bias"]))
                return left + F.linear(inner, v[f"{site}.up.weight"], v[f"{site}.up.bias"])

            model.get_submodule(names[index][out]).register_forward_hook(adapt)
            own = model.get_submodule(names[index][norm])
            own.weight, own.bias = (torch.nn.Parameter(v[f"{site}.norm.{part}"]) for part in ("weight", "bias"))
    _assert_equal(base, [random_row(11), random_row(40)], model, method.adapt(base.dims, v, torch.float32))


@every_layout
def test_low_ranks_are_added_to_the_linear_layers(checkpoint: Path, layout: Layout) -> None:
    base, method = (
        load_in(layout, str(checkpoint)),
        Lora(rank=2, alpha=2, targets=("attention_out", "ffn_in", "ffn_out")),
    )
    v = make_tensors(base, make_manifest(base, method=method), scale=0.1)
    model, names = _transformers(checkpoint), _names(checkpoint)
    for index in range(base.dims.layers):
        for target in method.targets:

            def adapt(module: Any, entered: Any, left: Tensor, site: str = f"layers.{index}.{target}") -> Tensor:
                return left + F.linear(F.linear(entered[0], v[f"{site}.down.weight"]), v[f"{site}.up.weight"])

            model.get_submodule(names[index][target]).register_forward_hook(adapt)
    _assert_equal(base, [random_row(11), random_row(40)], model, method.adapt(base.dims, v, torch.float32))


@every_layout
def test_every_method_answers_alone_as_among_the_others(checkpoint: Path, layout: Layout) -> None:
    base = load_in(layout, str(checkpoint))
    residents = [make_resident(base, method=method, seed=seed) for seed, method in enumerate(METHODS.values())]
    rows = [Row(random_row(length), resident) for length in (5, 30, 64) for resident in residents]
    engine = Engine(base)
    for row, found in zip(rows, engine.run(rows), strict=True):
        np.testing.assert_allclose(found, alone(engine, row), atol=1e-4)


@every_layout
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_training_and_serving_compute_the_same(checkpoint: Path, method: AnyMethod, layout: Layout) -> None:
    base = load_base(str(checkpoint))
    manifest = make_manifest(base, method=method)
    v = make_tensors(base, manifest)
    rows = [random_row(length) for length in (5, 30, 30, 64)]
    trained = AdapterModel(base, manifest, {name: tensor.clone() for name, tensor in v.items()}).outputs(rows)
    serving = load_in(layout, str(checkpoint))
    resident = load_resident(serving, write_adapter(manifest, v), version=1)
    served = Engine(serving).run([Row(row, resident) for row in rows])
    np.testing.assert_allclose(trained.detach().numpy(), np.stack(served), atol=1e-4)


@pytest.mark.skipif(not native.available("int16"), reason="no int16 on this processor")
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_training_in_integers_has_the_gradients_of_float32(checkpoint: Path, method: AnyMethod) -> None:
    base = load_base(str(checkpoint))
    manifest = make_manifest(base, method=method)
    v, rows = make_tensors(base, manifest), [random_row(length) for length in (5, 30, 64)]

    def gradients(dtype: torch.dtype) -> Tensor:
        model = AdapterModel(base, manifest, {name: tensor.clone() for name, tensor in v.items()}, dtype)
        found = torch.autograd.grad(model.outputs(rows).square().sum(), model.trainable(), materialize_grads=True)
        return torch.cat([gradient.flatten() for gradient in found])

    exact, close = gradients(torch.float32), gradients(torch.int16)
    assert 0 < float((exact - close).norm()) < 0.01 * float(exact.norm())


@every_layout
def test_the_real_base_equals_transformers(real_base: BaseModel, layout: Layout) -> None:
    texts = ["Rootstock", "Ein Süppchen für zwei: 3,50 €", "one frozen base, many adapters " * 20, "東京 🙂"]
    rows = tokenize(real_base.tokenizer, texts, None, max_length=128)
    source = locate(DEFAULT_BASE)
    tokenizer = AutoTokenizer.from_pretrained(source)
    assert [row.ids.tolist() for row in rows] == tokenizer(texts, truncation=True, max_length=128)["input_ids"]
    base = real_base if layout == "plain" else load_in(layout)
    _assert_equal(base, rows, _transformers(Path(source)))


def _transformers(folder: Path) -> Any:
    return AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def _names(folder: Path) -> list[dict[str, str]]:
    """Where each layer's modules are, by our names."""
    config = AutoConfig.from_pretrained(folder)
    architecture = ARCHITECTURES[config.model_type]
    layers = getattr(config, architecture.config.layers)
    return [architecture.layer_names(index, layers) for index in range(layers)]


def _assert_equal(base: BaseModel, rows: list[TokenizedRow], model: Any, adaptation: Adaptation = BARE) -> None:
    with torch.inference_mode():
        batch = pack(rows)
        arranged = adaptation if base.weights.native is None else placed(base.weights, adaptation)
        found = encode(base.weights, batch, [Group(slice(0, len(rows)), slice(0, len(batch.ids)), arranged)])
        expected = torch.cat(list(_one_by_one(model, rows)))
    assert expected.std() > 0.1  # not so degenerate that anything would be equal
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def _one_by_one(model: Any, rows: list[TokenizedRow]) -> Iterator[Tensor]:
    for row in rows:
        inputs = {"input_ids": torch.from_numpy(row.ids)[None]}
        if row.types.any():
            inputs["token_type_ids"] = torch.from_numpy(row.types)[None]
        if model.config.model_type in ("distilbert", "mpnet", "modernbert"):
            inputs.pop("token_type_ids", None)
        yield model(**inputs).last_hidden_state[0]
