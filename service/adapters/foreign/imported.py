"""What an import starts from and what comes of it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from service.adapters.manifest import KindName
from service.adapters.methods import AnyMethod, Dims


class Base(NamedTuple):
    """What must be known of the base: where its checkpoint keeps the layers that adapters change."""

    model_type: str
    layers: Sequence[Mapping[str, str]]  # by layer, from our names for its weights to the checkpoint's
    dims: Dims


class Imported(NamedTuple):
    """An adapter in our own form; everything of a manifest that its folder decides."""

    method: AnyMethod
    kind: KindName
    labels: Sequence[str]
    pooled_first: bool  # whether its head reads the first token's vector
    tensors: Mapping[str, Tensor]  # the method's and the head's
    base_name: str  # what the base was called where the adapter was trained
    source: str  # the library, with its version where the folder tells it


# What checkpoints with a head put before the names of the encoder's weights.
MODEL_PREFIXES: Mapping[str, str] = {
    "bert": "bert.",
    "roberta": "roberta.",
    "xlm-roberta": "roberta.",
    "camembert": "roberta.",
    "distilbert": "distilbert.",
    "electra": "electra.",
    "mpnet": "mpnet.",
    "modernbert": "model.",
}
