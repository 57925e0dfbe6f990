"""What PEFT saves means the same here, or is refused by name; what is exported to it is what it saves."""

import json
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from service.adapters.foreign import Imported, read_foreign
from service.adapters.foreign.export import to_peft
from service.adapters.methods import Houlsby, Lora
from service.engine.base_model import BaseModel, load_base
from service.errors import BadAdapter
from tests.adapters.foreign.made import HIDDEN, LORA, assert_same, foreign_base, low_ranks, noise, write
from tests.tiny import build_tiny, make_manifest, make_tensors

QUERIES = [f"encoder.layer.{layer}.attention.self.query" for layer in (0, 1)]
VALUES = [f"encoder.layer.{layer}.attention.self.value" for layer in (0, 1)]
FILE = "adapter_model.safetensors"


def taken(folder: Path, base: BaseModel, model_type: str = "bert", **options: Any) -> Imported:
    return read_foreign(folder, foreign_base(base, model_type), **options)


def changes(tensors: dict[str, Tensor], scales: dict[str, float], prefix: str = "base_model.model.") -> dict[str, Any]:
    """W + scale · B·A, by module."""
    found = {}
    for module, scale in scales.items():
        a, b = (tensors[f"{prefix}{module}.lora_{part}.weight"] for part in "AB")
        found[module] = lambda x, y, a=a, b=b, scale=scale: y + scale * x @ a.T @ b.T
    return found


def check(
    base: BaseModel, folder: Path, to: Path, ranks: dict[str, int], scales: dict[str, float], **config: Any
) -> None:
    tensors = low_ranks(ranks)
    imported = taken(write(to, LORA | config, tensors, FILE), base)
    assert_same(base, folder, imported, changes(tensors, scales))


def test_lora_with_its_scale(tiny_base: BaseModel, tiny_folder: Path, tmp_path: Path) -> None:
    modules = [*QUERIES, *VALUES]
    check(tiny_base, tiny_folder, tmp_path, dict.fromkeys(modules, 4), dict.fromkeys(modules, 2.0))


def test_a_scale_that_is_stabilised(tiny_base: BaseModel, tiny_folder: Path, tmp_path: Path) -> None:
    modules = [*QUERIES, *VALUES]
    scales = dict.fromkeys(modules, 8 / sqrt(4))
    check(tiny_base, tiny_folder, tmp_path, dict.fromkeys(modules, 4), scales, use_rslora=True)


def test_patterns_of_rank_and_alpha(tiny_base: BaseModel, tiny_folder: Path, tmp_path: Path) -> None:
    ranks = dict.fromkeys([*QUERIES, *VALUES], 4) | {QUERIES[1]: 6, VALUES[0]: 2, VALUES[1]: 2}
    scales = {QUERIES[0]: 5 / 4, QUERIES[1]: 5 / 6, VALUES[0]: 8 / 2, VALUES[1]: 8 / 2}
    patterns = {"rank_pattern": {"layer.1.attention.self.query": 6, "value": 2}, "alpha_pattern": {"^.*query": 5}}
    check(tiny_base, tiny_folder, tmp_path, ranks, scales, **patterns)


@pytest.mark.parametrize(
    ("config", "modules"),
    [
        ({"target_modules": r".*layer\.1\..*(query|value)"}, [QUERIES[1], VALUES[1]]),
        ({"layers_to_transform": [1], "layers_pattern": "layer"}, [QUERIES[1], VALUES[1]]),
        ({"layers_to_transform": 0}, [QUERIES[0], VALUES[0]]),
        ({"exclude_modules": ["0.attention.self.query"]}, [QUERIES[1], *VALUES]),
        (
            {"target_modules": ["intermediate.dense", "output.dense"]},
            [f"encoder.layer.{i}.{m}.dense" for i in (0, 1) for m in ("intermediate", "output", "attention.output")],
        ),
    ],
)
def test_any_choice_of_modules(
    tiny_base: BaseModel, tiny_folder: Path, tmp_path: Path, config: dict[str, Any], modules: list[str]
) -> None:
    check(tiny_base, tiny_folder, tmp_path, dict.fromkeys(modules, 4), dict.fromkeys(modules, 2.0), **config)


@pytest.mark.parametrize(("task", "site", "rows"), [("TOKEN_CLS", "classifier", 3), ("QUESTION_ANS", "qa_outputs", 2)])
def test_heads_are_among_the_tensors(tiny_base: BaseModel, tmp_path: Path, task: str, site: str, rows: int) -> None:
    tensors = low_ranks(dict.fromkeys([*QUERIES, *VALUES], 4), "base_model.model.roberta.")
    own = {"weight": noise(rows, HIDDEN), "bias": noise(rows)}
    tensors |= {f"base_model.model.{site}.{part}": tensor for part, tensor in own.items()}
    folder = write(tmp_path, LORA | {"task_type": task}, tensors, FILE)
    labels = ["O", "B-X", "I-X"] if rows == 3 else None
    imported = taken(folder, tiny_base, "roberta", labels=labels)
    assert imported.labels == (["X"] if labels else [])
    assert imported.tensors["head.weight"].equal(own["weight"])
    if labels:
        with pytest.raises(BadAdapter, match="name the head's rows with --labels"):
            taken(folder, tiny_base, "roberta")
        with pytest.raises(BadAdapter, match=r"classifier\.weight has shape \[3, 32\], expected \[2, 32\]"):
            taken(folder, tiny_base, "roberta", labels=["O", "B-X"])


def test_queries_keys_and_values_that_are_one(tmp_path: Path) -> None:
    folder = build_tiny(tmp_path / "base", "modernbert")
    base = load_base(str(folder))
    a, b = noise(4, HIDDEN), noise(3 * HIDDEN, 4)
    tensors: dict[str, Tensor] = {}
    expected: dict[str, Any] = {}
    for layer in (0, 1):
        at = f"layers.{layer}.attn.Wqkv"
        tensors |= {
            f"base_model.model.{at}.lora_A.weight": a.clone(),
            f"base_model.model.{at}.lora_B.weight": b.clone(),
        }
        expected[at] = lambda x, y: y + 2 * x @ a.T @ b.T
    config = LORA | {"target_modules": ["Wqkv"]}
    imported = taken(write(tmp_path / "lora", config, tensors, FILE), base, "modernbert")
    assert_same(base, folder, imported, expected)


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        ({"use_dora": True}, "use_dora = true is not supported: it scales"),
        ({"bias": "lora_only"}, 'bias = "lora_only" is not supported'),
        ({"lora_bias": True}, "lora_bias = true is not supported"),
        ({"init_lora_weights": "pissa"}, 'init_lora_weights = "pissa" is not supported: such a start changes'),
        ({"trainable_token_indices": [3]}, r"trainable_token_indices = \[3\] is not supported: the field is not known"),
        ({"brand_new": "yes"}, 'brand_new = "yes" is not supported'),
        ({"task_type": "SEQ_CLS"}, "task_type = 'SEQ_CLS' is not supported: a layer with an activation"),
        ({"task_type": "QUESTION_ANS"}, "task_type = 'QUESTION_ANS' is not supported on bert: the library keeps"),
        ({"task_type": "CAUSAL_LM"}, "task_type = 'CAUSAL_LM' is not supported: the task is not known"),
        ({"peft_type": "IA3"}, "peft_type = 'IA3' is not supported: it scales"),
        ({"peft_type": "PREFIX_TUNING"}, "counts the text's positions from behind the prefix"),
        ({"peft_type": "PROMPT_TUNING"}, "virtual tokens"),
        ({"peft_type": "VERA"}, "peft_type = 'VERA' is not supported: the method is not known"),
        ({"target_modules": ["query", "value", "key"]}, r"key\.lora_A\.weight \[4, 32\] is missing"),
        ({"target_modules": ["query"]}, r"value\.lora_A\.weight \[4, 32\] is left over \(and 3 others\)"),
        ({"target_modules": []}, "no layer has a low-rank change"),
        ({"target_modules": "("}, "is no regex"),
        ({"r": 0}, "r = 0 is not a whole number above zero"),
    ],
)
def test_what_is_not_expressible_is_refused_by_name(
    tiny_base: BaseModel, tmp_path: Path, config: dict[str, Any], cause: str
) -> None:
    folder = write(tmp_path, LORA | config, low_ranks(dict.fromkeys([*QUERIES, *VALUES], 4)), FILE)
    with pytest.raises(BadAdapter, match=cause):
        taken(folder, tiny_base)


def test_a_folder_of_neither_library_is_refused(tiny_base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(BadAdapter, match=r"there is no adapter_config\.json"):
        taken(tmp_path, tiny_base)
    for text, cause in (("{}", "neither AdapterHub's nor PEFT's"), ("[1]", "not a JSON object"), ("{", "not JSON")):
        (tmp_path / "adapter_config.json").write_text(text)
        with pytest.raises(BadAdapter, match=cause):
            taken(tmp_path, tiny_base)
    (tmp_path / "adapter_config.json").write_text(json.dumps(LORA))
    with pytest.raises(BadAdapter, match=r"there is no adapter_model\.safetensors or adapter_model\.bin"):
        taken(tmp_path, tiny_base)


@pytest.mark.parametrize("kind", ["tagging", "answer", "embedding"])
def test_what_is_exported_is_imported_again(tiny_base: BaseModel, tmp_path: Path, kind: Any) -> None:
    method = Lora(rank=3, alpha=5, targets=("query", "ffn_out"), layers=(1,))
    manifest = make_manifest(tiny_base, kind=kind, labels=["X"], method=method)
    v = make_tensors(tiny_base, manifest)
    config, tensors = to_peft(manifest, v, foreign_base(tiny_base, "roberta"))
    folder = write(tmp_path, config, {}, FILE)
    save_file(tensors, folder / FILE)
    imported = taken(folder, tiny_base, "roberta", labels=["O", "B-X", "I-X"] if kind == "tagging" else None)
    assert imported.kind == kind
    assert imported.tensors.keys() == v.keys()
    for name, tensor in v.items():
        scale = 5 / 3 if ".up." in name else 1
        torch.testing.assert_close(imported.tensors[name], scale * tensor)


def test_what_peft_has_not_is_not_exported(tiny_base: BaseModel) -> None:
    cases: dict[str, dict[str, Any]] = {
        "kind answer is not supported on bert": {"kind": "answer", "method": Lora()},
        "method houlsby is not supported": {"kind": "embedding", "method": Houlsby(bottleneck=4)},
        "LayerNorms of the task's own": {"kind": "embedding", "method": Lora(norms=True)},
        "kind classification is not supported": {"method": Lora()},
    }
    for cause, options in cases.items():
        manifest = make_manifest(tiny_base, **options)
        with pytest.raises(BadAdapter, match=cause):
            to_peft(manifest, make_tensors(tiny_base, manifest), foreign_base(tiny_base))
