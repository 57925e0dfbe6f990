"""Adapters that the `peft` library makes: imports_peft.py FOLDER, settings on stdin (import_protocol.py)."""

from functools import partial
from pathlib import Path
from typing import Any

from import_protocol import TAGS, Case, run, stir
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

# By kind: the model, its options, and what `rootstock import` is told.
MODELS: dict[str, Any] = {
    "embedding": (AutoModel, {}, "FEATURE_EXTRACTION", []),
    "tagging": (AutoModelForTokenClassification, {"num_labels": len(TAGS)}, "TOKEN_CLS", ["--labels", ",".join(TAGS)]),
    "answer": (AutoModelForQuestionAnswering, {}, "QUESTION_ANS", []),
    "classification": (AutoModelForSequenceClassification, {"num_labels": 2}, "SEQ_CLS", ["--labels", "no,yes"]),
}


def make(kind: str, config: Any, base: str, folder: Path) -> Any:
    model_class, options, task, _ = MODELS[kind]
    bare = model_class.from_pretrained(base, **options)
    model = get_peft_model(bare, config(task_type=task))
    stir({name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad})
    model.save_pretrained(str(folder))
    return model


def lora(**options: Any) -> Any:
    return partial(LoraConfig, **options)


QV = {"target_modules": ["query", "value"]}
ALL = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
CONFIGS: dict[str, tuple[str, Any]] = {
    "lora": ("embedding", lora()),
    "lora, tagging": ("tagging", lora()),
    "lora, answer": ("answer", lora()),
    "lora, sequence classification": ("classification", lora()),
    "lora, everywhere": ("tagging", lora(r=4, lora_alpha=12, target_modules=ALL)),
    "lora, all-linear": ("tagging", lora(r=4, target_modules="all-linear")),
    "lora, all-linear with a pooler": ("embedding", lora(r=4, target_modules="all-linear")),
    "lora, regex": ("tagging", lora(target_modules=r".*layer\.[13]\.attention\.self\.(query|key)")),
    "lora, some layers": ("tagging", lora(**QV, layers_to_transform=[0, 2], layers_pattern="layer")),
    "lora, exclude_modules": ("tagging", lora(**QV, exclude_modules=r".*layer\.1\..*")),
    "lora, rslora": ("tagging", lora(use_rslora=True, lora_alpha=4)),
    "lora, rank_pattern": ("tagging", lora(**QV, rank_pattern={"layer.1.attention.self.query": 12, "value": 3})),
    "lora, alpha_pattern": ("tagging", lora(**QV, alpha_pattern={"query": 32, "^.*layer.2.*value": 5})),
    "lora, rslora and patterns": (
        "tagging",
        lora(**QV, use_rslora=True, rank_pattern={"query": 2}, alpha_pattern={"layer.0.attention.self.query": 9}),
    ),
    "lora, fan_in_fan_out": ("tagging", lora(fan_in_fan_out=True)),
    "lora, rsLoRA with dropout": ("tagging", lora(use_rslora=True, lora_dropout=0.5)),
    "lora, init pissa": ("tagging", lora(init_lora_weights="pissa")),
    "lora, bias all": ("tagging", lora(bias="all")),
    "lora, bias lora_only": ("tagging", lora(bias="lora_only")),
    "lora, lora_bias": ("tagging", lora(lora_bias=True)),
    "dora": ("tagging", lora(use_dora=True)),
    "dora, everywhere": ("tagging", lora(r=4, use_dora=True, target_modules=ALL)),
    "lora, embeddings": ("tagging", lora(target_modules=["query", "word_embeddings"])),
    "lora, trainable_token_indices": ("tagging", lora(trainable_token_indices=[5, 6])),
    "lora, modules_to_save LayerNorm": ("tagging", lora(modules_to_save=["classifier", "LayerNorm"])),
    "lora, modules_to_save of the base": ("tagging", lora(modules_to_save=["classifier", "intermediate.dense"])),
    "ia3": ("tagging", partial(IA3Config)),
    "prefix": ("embedding", partial(PrefixTuningConfig, num_virtual_tokens=5)),
    "prefix, projection": (
        "embedding", partial(PrefixTuningConfig, num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=32)
    ),
    "prompt": ("embedding", partial(PromptTuningConfig, num_virtual_tokens=5)),
    "adalora": ("tagging", partial(AdaLoraConfig, total_step=10)),
    "vera": ("tagging", partial(VeraConfig, **QV)),
    "loha": ("tagging", partial(LoHaConfig, **QV)),
}  # fmt: skip
EVERYWHERE = {
    "roberta": ALL,
    "xlm-roberta": ALL,
    "camembert": ALL,
    "electra": ALL,
    "distilbert": ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"],
    "mpnet": ["attn.q", "attn.k", "attn.v", "attn.o", "intermediate.dense", "output.dense"],
    "modernbert": ["Wqkv", "attn.Wo", "Wi", "mlp.Wo"],
}

CASES = [
    *(Case(name, "bert", partial(make, kind, config), kind, MODELS[kind][3])
      for name, (kind, config) in CONFIGS.items()),
    *(
        Case(f"lora, {kind} on {base}", base, partial(make, kind, lora(r=3, target_modules=targets)), kind,
             MODELS[kind][3])
        for base, targets in EVERYWHERE.items()
        for kind in MODELS
    ),
]  # fmt: skip

if __name__ == "__main__":
    run(CASES)
