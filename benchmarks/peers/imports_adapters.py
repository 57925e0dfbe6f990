"""Adapters that the `adapters` library makes: imports_adapters.py FOLDER, settings on stdin (import_protocol.py)."""

from functools import partial
from pathlib import Path
from typing import Any

import adapters
import torch
from adapters import AutoAdapterModel
from import_protocol import TAGS, Case, run, stir
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

LABELS = {0: "zero", 1: "one", 2: "two"}
HEADS = {
    "linear": ("classification", {"num_labels": 3, "layers": 1, "id2label": LABELS}),
    "hidden layer": ("classification", {"num_labels": 3, "layers": 2, "id2label": LABELS}),
    "pooler": ("classification", {"num_labels": 3, "layers": 1, "use_pooler": True, "id2label": LABELS}),
    "regression": ("classification", {"num_labels": 1, "layers": 1}),
    "multilabel": ("classification", {"num_labels": 3, "layers": 1, "multilabel": True, "id2label": LABELS}),
    "tagging": ("tagging", {"num_labels": 5, "layers": 1, "id2label": dict(enumerate(TAGS))}),
    "answer": ("qa", {"num_labels": 2, "layers": 1}),
    "choice": ("multiple_choice", {"num_choices": 2, "layers": 1}),
    "nothing": (None, {}),
}
KINDS = {"regression": "regression", "multilabel": "multilabel", "tagging": "tagging", "answer": "answer"}
KINDS |= {"nothing": "embedding"}
NUMBERED = {"id2label": dict(enumerate(TAGS)), "label2id": {tag: number for number, tag in enumerate(TAGS)}}
STATIC = {
    "static sequence": (AutoModelForSequenceClassification, "classification", {"num_labels": 3}),
    "static tagging": (AutoModelForTokenClassification, "tagging", NUMBERED),
    "static answer": (AutoModelForQuestionAnswering, "answer", {}),
}
LEGACY = {"attention.output.adapters": "attention.output.attention_text_task_adapters"}
LEGACY |= {".output.adapters": ".output.layer_text_task_adapters"}


def make(config: Any, head: str, safe: bool, base: str, folder: Path) -> Any:
    model = AutoAdapterModel.from_pretrained(base)
    model.add_adapter("made", config=config)
    method, options = HEADS[head]
    if method:
        getattr(model, f"add_{method}_head")("made", **options)
    return saved(model, folder, safe)


def make_static(head: str, base: str, folder: Path) -> Any:
    kind, _, options = STATIC[head]
    model = kind.from_pretrained(base, **options)
    adapters.init(model)
    model.add_adapter("made", config="double_seq_bn")
    return saved(model, folder, True)


def saved(model: Any, folder: Path, safe: bool) -> Any:
    model.train_adapter("made")
    stir({name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad})
    model.save_adapter(str(folder), "made", use_safetensors=safe)
    model.set_active_adapters("made")
    return model


def make_legacy(base: str, folder: Path) -> Any:
    """With the names of tensors that early versions gave, read again by the library."""
    make(adapters.DoubleSeqBnConfig(), "linear", False, base, folder)
    file = folder / "pytorch_adapter.bin"
    tensors = torch.load(file, weights_only=True)
    renamed = {}
    for name, tensor in tensors.items():
        old = next(old for old in LEGACY if old in name)
        renamed[name.replace(old, LEGACY[old])] = tensor
    torch.save(renamed, file)
    model = AutoAdapterModel.from_pretrained(base)
    model.load_adapter(str(folder), set_active=True)
    return model


DOUBLE, SEQ, PAR = adapters.DoubleSeqBnConfig, adapters.SeqBnConfig, adapters.ParBnConfig
LORA, PREFIX, COMPACTER = adapters.LoRAConfig, adapters.PrefixTuningConfig, adapters.CompacterConfig
CONFIGS: dict[str, Any] = {
    "double_seq_bn": DOUBLE(),
    "double_seq_bn, reduction by layer": DOUBLE(reduction_factor={"0": 8, "3": 48, "default": 32}),
    "double_seq_bn, leave_out": DOUBLE(leave_out=[0, 4]),
    **{f"double_seq_bn, {name}": DOUBLE(non_linearity=name) for name in ("relu", "gelu", "tanh", "leakyrelu")},
    "double_seq_bn, gelu_new": DOUBLE(non_linearity="gelu_new"),
    "double_seq_bn, mish": DOUBLE(non_linearity="mish"),
    **{f"double_seq_bn, scaling {scale}": DOUBLE(scaling=scale) for scale in (2.5, "learned", "channel")},
    "double_seq_bn, attention alone": DOUBLE(output_adapter=False),
    "double_seq_bn, feed-forward alone": DOUBLE(mh_adapter=False),
    "double_seq_bn, ln_before": DOUBLE(ln_before=True),
    "double_seq_bn, ln_after": DOUBLE(ln_after=True),
    "double_seq_bn, gating": DOUBLE(use_gating=True),
    "double_seq_bn_inv": "double_seq_bn_inv",
    "seq_bn": SEQ(),
    "seq_bn, original_ln_before=False": SEQ(original_ln_before=False),
    "seq_bn_inv": "seq_bn_inv",
    "adapter_plus": adapters.AdapterPlusConfig(stochastic_depth=0.0),
    "par_bn": PAR(),
    "par_bn, reduction by layer": PAR(reduction_factor={"1": 4, "default": 8}, leave_out=[5]),
    "par_bn, both sub-layers": PAR(mh_adapter=True, reduction_factor=16),
    "scaled_par_bn": "scaled_par_bn",
    "compacter": COMPACTER(),
    "compacter, phm_rank 2": COMPACTER(phm_rank=2),
    "compacter, factorized rule": COMPACTER(factorized_phm_rule=True),
    "compacter, own rules": COMPACTER(shared_phm_rule=False),
    "compacter, own factorized rules": COMPACTER(shared_phm_rule=False, factorized_phm_rule=True),
    "compacter, whole W": COMPACTER(factorized_phm_W=False),
    "compacter, shared W": COMPACTER(shared_W_phm=True),
    "compacter, no bias": COMPACTER(phm_bias=False),
    "compacter++": "compacter++",
    "lora": LORA(),
    "lora, everywhere": LORA(
        r=4, alpha=16, attn_matrices=["q", "k", "v"], intermediate_lora=True, output_lora=True, leave_out=[2]
    ),
    "lora, feed-forward alone": LORA(selfattn_lora=False, intermediate_lora=True, output_lora=True),
    "lora, gating": LORA(use_gating=True),
    "dora": adapters.DoRAConfig(),
    "vera": adapters.VeraConfig(),
    "ia3": adapters.IA3Config(),
    "prefix_tuning": PREFIX(prefix_length=5, bottleneck_size=64),
    "prefix_tuning_flat": PREFIX(flat=True, prefix_length=5),
    "prefix_tuning, leave_out": PREFIX(flat=True, prefix_length=5, leave_out=[1]),
    "prefix_tuning, gating": PREFIX(flat=True, prefix_length=5, use_gating=True),
    "prompt_tuning": adapters.PromptTuningConfig(),
    "mam": adapters.MAMConfig(adapter=PAR(), prefix_tuning=PREFIX(prefix_length=5, bottleneck_size=64)),
    "unipelt": adapters.UniPELTConfig(),
    "loreft": adapters.LoReftConfig(),
}
# The library names some of their tensors twice, which safetensors refuses to write.
SHARING = ("double_seq_bn, ln_before", "mam", "unipelt", *(name for name in CONFIGS if name.startswith("prefix")))
OTHER_BASES = ("roberta", "xlm-roberta", "distilbert", "electra")
SMALL: dict[str, Any] = {
    "double_seq_bn": DOUBLE(reduction_factor=8),
    "par_bn": PAR(),
    "compacter": COMPACTER(reduction_factor=8),
    "lora": LORA(r=2, alpha=4, attn_matrices=["q", "k", "v"], intermediate_lora=True, output_lora=True),
    "prefix_tuning": PREFIX(prefix_length=3, bottleneck_size=16),
}

CASES = [
    *(
        Case(name, "bert", partial(make, config, "linear", name not in SHARING), "classification")
        for name, config in CONFIGS.items()
    ),
    Case("double_seq_bn in .bin", "bert", partial(make, DOUBLE(), "linear", False), "classification"),
    Case("double_seq_bn, legacy names", "bert", make_legacy, "classification"),
    *(
        Case(f"head: {head}", "bert", partial(make, DOUBLE(), head, True), KINDS.get(head, "classification"))
        for head in HEADS
        if head != "linear"
    ),
    *(Case(f"head: {head}", "bert", partial(make_static, head), kind) for head, (_, kind, _) in STATIC.items()),
    *(
        Case(f"{name} on {base}", base, partial(make, config, head, name not in SHARING), KINDS[head])
        for base in OTHER_BASES
        for (name, config), head in zip(
            SMALL.items(), ("tagging", "answer", "nothing", "tagging", "multilabel"), strict=True
        )
    ),
    *(Case(f"head: static tagging on {base}", base, partial(make_static, "static tagging"), "tagging")
      for base in OTHER_BASES),
]  # fmt: skip

if __name__ == "__main__":
    run(CASES)
