"""Architectures as data: where a checkpoint keeps each weight, and the few ways in which the family differs.

A new BERT-like encoder is a row in `ARCHITECTURES` and its name in the equality test against `transformers`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True)
class LayerNames:
    """A layer's weights, each a name without `.weight` or `.bias`, under `Architecture.layer`."""

    query: str | None = "attention.self.query"
    key: str | None = "attention.self.key"
    value: str | None = "attention.self.value"
    qkv: str | None = None  # all three, where they lie one under the other
    attention_out: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    ffn_in: str = "intermediate.dense"
    ffn_out: str = "output.dense"
    ffn_norm: str = "output.LayerNorm"

    @property
    def parts(self) -> tuple[str, ...]:
        """Under which of our names queries, keys and values lie."""
        return ("query", "key", "value") if self.qkv is None else ("qkv",)


@dataclass(frozen=True)
class ConfigNames:
    """What the sizes are called in the checkpoint's config.json."""

    hidden: str = "hidden_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    activation: str = "hidden_act"
    norm_eps: str | None = "layer_norm_eps"


class Rotation(NamedTuple):
    """Positions as angles by which a layer turns its queries and keys, and how far its tokens see."""

    theta: float
    window: int | None  # tokens to each side; None: all of the row


@dataclass(frozen=True)
class Architecture:
    layer: str = "encoder.layer.{}"
    names: LayerNames = field(default_factory=LayerNames)
    config: ConfigNames = field(default_factory=ConfigNames)
    word: str = "embeddings.word_embeddings"
    position: str | None = "embeddings.position_embeddings"
    first_position: int | None = 0  # the first token's; None: the one behind the padding's, as RoBERTa counts
    type: str | None = "embeddings.token_type_embeddings"
    norm: str = "embeddings.LayerNorm"
    project: str | None = None  # from the embeddings' size to the layers', in checkpoints where these differ
    biased: bool = True  # whether every linear layer and norm has a bias, or a checkpoint may leave some out
    buckets: str | None = None  # what a score gains by how far the key is from the query: [buckets, heads]
    rotations: Callable[[Any], list[Rotation]] | None = None  # by layer, from the config
    # Each sub-layer reads what a norm makes of the stream, and adds to the stream itself. The norm after a sub-layer is
    # then the one before the next: `names.ffn_norm` is found in the next layer, and behind the last one `last_norm`.
    norm_first: bool = False
    last_norm: str | None = None
    gated: bool = False  # the feed-forward sub-layer widens to twice its inner size, and one half gates the other

    def layer_names(self, layer: int, layers: int) -> dict[str, str]:
        """Where one of so many layers keeps its weights, by our names for them."""
        found = {}
        for ours, theirs in vars(self.names).items():
            if theirs is None:
                continue
            elsewhere = self.norm_first and ours == "ffn_norm"
            found[ours] = f"{self.layer.format(layer + elsewhere)}.{theirs}"
        if self.last_norm is not None and layer == layers - 1:
            found["ffn_norm"] = self.last_norm
        return found


def _modernbert_rotations(config: Any) -> list[Rotation]:
    windows = {"full_attention": None, "sliding_attention": config.local_attention // 2}
    found = []
    for kind in config.layer_types:
        settings = config.rope_parameters[kind]
        if settings["rope_type"] != "default":
            raise ValueError(f"rotary positions of type {settings['rope_type']}")
        found.append(Rotation(float(settings["rope_theta"]), windows[kind]))
    return found


BERT = Architecture()
ROBERTA = Architecture(first_position=None)
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
    type=None,
)
ELECTRA = Architecture(project="embeddings_project")
MPNET = Architecture(
    names=LayerNames(
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        attention_out="attention.attn.o",
        attention_norm="attention.LayerNorm",
    ),
    first_position=2,
    type=None,
    buckets="encoder.relative_attention_bias",
)
MODERNBERT = Architecture(
    layer="layers.{}",
    names=LayerNames(
        query=None,
        key=None,
        value=None,
        qkv="attn.Wqkv",
        attention_out="attn.Wo",
        attention_norm="mlp_norm",
        ffn_in="mlp.Wi",
        ffn_out="mlp.Wo",
        ffn_norm="attn_norm",
    ),
    config=ConfigNames(activation="hidden_activation", norm_eps="norm_eps"),
    word="embeddings.tok_embeddings",
    position=None,
    type=None,
    norm="embeddings.norm",
    biased=False,
    rotations=_modernbert_rotations,
    norm_first=True,
    last_norm="final_norm",
    gated=True,
)

ARCHITECTURES: dict[str, Architecture] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "distilbert": DISTILBERT,
    "electra": ELECTRA,
    "mpnet": MPNET,
    "modernbert": MODERNBERT,
}
