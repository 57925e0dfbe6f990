"""AdapterHub's bottlenecks: houlsby's, parallel ones, those of a Kronecker product; each in its layer and place."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from service.adapters.foreign.folder import Only, Tensors, check_fields, number, whole
from service.adapters.foreign.imported import Base
from service.adapters.foreign.parts import Arranged, Block, bottlenecks
from service.adapters.methods import Place
from service.adapters.methods.adaptation import Activation
from service.errors import BadAdapter

# Where a layer keeps its bottlenecks.
ENCODER = {"attention": "encoder.layer.{}.attention.output", "ffn": "encoder.layer.{}.output"}
DISTILBERT = {"attention": "transformer.layer.{}.attention_adapters", "ffn": "transformer.layer.{}.output_adapters"}
SITES: Mapping[str, Mapping[str, str]] = {"distilbert": DISTILBERT}  # ENCODER in the others
SWITCHES: Mapping[str, Place] = {"mh_adapter": "attention", "output_adapter": "ffn"}
ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "silu": "swish",
    "swish": "swish",
    "tanh": "tanh",
}
# Before versions were noted, these names stood for others.
OLD_ACTIVATIONS = {"gelu": "gelu_new", "gelu_orig": "gelu"}
# Activations that are x where it is positive and `slope` · x elsewhere: relu(x) - slope · relu(-x).
SLOPES = {"leakyrelu": 0.01, "leaky_relu": 0.01, "linear": 1.0}
NO_NORM = "no LayerNorm of ours lies inside a bottleneck"
NO_EMBEDDINGS = "invertible adapters change the embeddings"
ONLY = {
    "original_ln_before": Only(
        (False,), "the bottleneck would read what the LayerNorm makes of the sub-layer's sum, and ours read its parts"
    ),
    "original_ln_after": Only((True,), "the layer's own LayerNorm and residual would be left out"),
    "ln_before": Only((False, None), NO_NORM),
    "ln_after": Only((False, None), NO_NORM),
    "residual_before_ln": Only((True, False), "the bottleneck's own skip would begin elsewhere"),
    "use_gating": Only((False, None), "how much of the bottleneck counts would depend on the text"),
    "inv_adapter": Only((None,), NO_EMBEDDINGS),
    "invertible_adapter": Only((None,), NO_EMBEDDINGS),
}
REQUIRED = ("mh_adapter", "output_adapter", "reduction_factor", "non_linearity")
PHM = (
    "phm_layer", "phm_dim", "phm_rank", "phm_bias", "factorized_phm_W", "shared_W_phm", "shared_phm_rule",
    "factorized_phm_rule",
)  # fmt: skip
USED = (*REQUIRED, *PHM, "is_parallel", "scaling", "leave_out")
IDLE = (  # in training, in decoders, or of what is off
    "architecture", "adapter_residual_before_ln", "attention_type", "cross_adapter", "dropout",
    "hypercomplex_nonlinearity", "init_weights", "init_weights_seed", "inv_adapter_reduction_factor", "learn_phm",
    "phm_c_init", "phm_init_range", "stochastic_depth",
)  # fmt: skip


def read(config: Mapping[str, Any], saved: Mapping[str, Any], base: Base, tensors: Tensors, name: str) -> Arranged:
    """The bottlenecks of the adapter `name`."""
    check_fields(config, USED, IDLE, ONLY)
    for field in REQUIRED:
        if field not in config:
            raise BadAdapter(f"{field} is missing")
    activation = str(config["non_linearity"]).lower()
    if "version" not in saved:
        activation = OLD_ACTIVATIONS.get(activation, activation)
    slope = SLOPES.get(activation)
    if slope is None and activation not in ACTIVATIONS:
        known = ", ".join([*ACTIVATIONS, *SLOPES])
        raise BadAdapter(f"non_linearity = {config['non_linearity']!r} is not supported; known are {known}")
    maker = _Maker(config, base.dims.hidden, tensors, name, {})
    blocks = {(layer, place): maker.block(layer, site) for layer, place, site in _sites(config, base)}
    if slope is not None:
        blocks = {at: _two_sided(block, slope) for at, block in blocks.items()}
    kind: Activation = "relu" if slope is not None else ACTIVATIONS[activation]
    return bottlenecks(blocks, kind, bool(config.get("is_parallel")), base.dims)


def _sites(config: Mapping[str, Any], base: Base) -> Iterator[tuple[int, Place, str]]:
    sites = SITES.get(base.model_type, ENCODER)
    for layer in range(base.dims.layers):
        for switch, place in SWITCHES.items():
            if config[switch] and layer not in (config.get("leave_out") or ()):
                yield layer, place, sites[place].format(layer)


def _two_sided(block: Block, slope: float) -> Block:
    return Block(
        torch.cat([block.down, -block.down]),
        torch.cat([block.down_bias, -block.down_bias]),
        torch.cat([block.up, -slope * block.up], dim=1),
        block.up_bias,
    )


class _Maker(NamedTuple):
    """Takes bottlenecks out of a file."""

    config: Mapping[str, Any]
    hidden: int
    tensors: Tensors
    name: str
    shared: dict[str, Tensor]  # what all places share, by name, once it is taken

    def block(self, layer: int, site: str) -> Block:
        size, at = self._size(layer), f"{site}.adapters.{self.name}"
        down, down_bias = self._linear(f"{at}.adapter_down.0", "down", self.hidden, size)
        up, up_bias = self._linear(f"{at}.adapter_up", "up", size, self.hidden)
        scale = self._scale(at)
        return Block(down, down_bias, up * scale[:, None], up_bias * scale)

    def _size(self, layer: int) -> int:
        factor = self.config["reduction_factor"]
        if isinstance(factor, Mapping):
            factor = factor.get(str(layer), factor.get("default"))
        if isinstance(factor, bool) or not isinstance(factor, int | float) or factor <= 0:
            raise BadAdapter(f"reduction_factor = {json.dumps(factor)} of layer {layer} is not a number above zero")
        return max(1, int(self.hidden // factor))

    def _scale(self, at: str) -> Tensor:
        """By which the bottleneck's output is multiplied, [hidden]."""
        scaling = self.config.get("scaling", 1.0)
        if scaling in ("learned", "channel"):
            size = 1 if scaling == "learned" else self.hidden
            return self.tensors.take(f"{at}.scaling", size).expand(self.hidden)
        return torch.full((self.hidden,), number({"scaling": scaling}, "scaling"))

    def _linear(self, at: str, position: str, into: int, out: int) -> tuple[Tensor, Tensor]:
        if not self.config.get("phm_layer"):
            return self.tensors.take(f"{at}.weight", out, into), self.tensors.take(f"{at}.bias", out)
        has_bias = self.config.get("phm_bias", True)
        bias = self.tensors.take(f"{at}.b", out) if has_bias else torch.zeros(out)
        return self._kronecker(at, position, into, out), bias

    def _kronecker(self, at: str, position: str, into: int, out: int) -> Tensor:
        """The matrix [out, in] that is a sum of Kronecker products (Mahabadi et al. 2021, arXiv 2106.04647)."""
        config, n = self.config, whole(self.config, "phm_dim")
        if into % n or out % n:
            raise BadAdapter(f"phm_dim = {n} does not divide the sizes {into} and {out}")
        own = f"{at}.W" if not config.get("shared_W_phm") else f"W_{position}"
        rank = whole(config, "phm_rank") if config.get("factorized_phm_W", True) else None
        small = self._factors(own, bool(config.get("shared_W_phm")), n, into // n, out // n, rank)
        own = "phm_rule" if config.get("shared_phm_rule", True) else f"{at}.phm_rule"
        rank = 1 if config.get("factorized_phm_rule") else None
        rule = self._factors(own, bool(config.get("shared_phm_rule", True)), n, n, n, rank)
        return torch.stack([torch.kron(*pair) for pair in zip(rule, small, strict=True)]).sum(0).T

    def _factors(self, name: str, shared: bool, n: int, rows: int, columns: int, rank: int | None) -> Tensor:
        """Matrices [n, rows, columns], whole or as a product of two thin ones."""
        if rank is None:
            return self._take(name, shared, n, rows, columns)
        left = self._take(f"{name}_left", shared, n, rows, rank)
        return left @ self._take(f"{name}_right", shared, n, rank, columns)

    def _take(self, name: str, shared: bool, *shape: int) -> Tensor:
        if not shared:
            return self.tensors.take(name, *shape)
        if name not in self.shared:
            self.shared[name] = self.tensors.take(f"shared_parameters.{self.name}.{name}", *shape)
        return self.shared[name]
