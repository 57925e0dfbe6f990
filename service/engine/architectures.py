"""Architectures as data: where a checkpoint keeps each weight, and the few ways in which the family differs.

A new BERT-like encoder is a row in `ARCHITECTURES` and its name in the equality test against `transformers`.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LayerNames:
    """A layer's weights, each a name without `.weight` or `.bias`, under `Architecture.layer`."""

    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attention_out: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    ffn_in: str = "intermediate.dense"
    ffn_out: str = "output.dense"
    ffn_norm: str = "output.LayerNorm"


@dataclass(frozen=True)
class ConfigNames:
    """What the sizes are called in the checkpoint's config.json."""

    hidden: str = "hidden_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    activation: str = "hidden_act"
    norm_eps: str | None = "layer_norm_eps"


@dataclass(frozen=True)
class Architecture:
    layer: str = "encoder.layer.{}"
    names: LayerNames = field(default_factory=LayerNames)
    config: ConfigNames = field(default_factory=ConfigNames)
    token_types: bool = True
    positions_after_padding: bool = False  # positions count from padding_idx + 1, as RoBERTa's do


BERT = Architecture()
ROBERTA = Architecture(positions_after_padding=True)
DISTILBERT = Architecture(
    layer="transformer.layer.{}",
    names=LayerNames(
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_out="attention.out_lin",
        attention_norm="sa_layer_norm",
        ffn_in="ffn.lin1",
        ffn_out="ffn.lin2",
        ffn_norm="output_layer_norm",
    ),
    config=ConfigNames(hidden="dim", layers="n_layers", heads="n_heads", activation="activation", norm_eps=None),
    token_types=False,
)

ARCHITECTURES: dict[str, Architecture] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "distilbert": DISTILBERT,
}
