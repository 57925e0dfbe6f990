"""Before a device serves: it computes what the processor computes in float32, or the service does not start."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from service.adapters.methods import BARE, Adaptation, AnyMethod, Head, Houlsby, Lora, Parallel, PrefixTuning
from service.engine.encoder import Group, encode, encode_stages
from service.engine.layout import placed
from service.engine.packing import pack
from service.engine.slots import on_device
from service.engine.slots.stack import FIRST
from service.engine.stages import Asked, plan
from service.engine.weights import Weights
from service.errors import BadBase
from service.tasks import TokenizedRow

# By how much token vectors may differ, as a share of their length: rounding in every layer, and far from a mix-up.
TOLERANCES = {torch.float32: 0.001, torch.float16: 0.02, torch.bfloat16: 0.1}
LENGTHS = (1, 7, 16, 16, 40, 61)
METHODS: Sequence[AnyMethod] = (
    *(FIRST + 1) * (Houlsby(bottleneck=24),),  # so that their stack grows
    Parallel(bottleneck=8, activation="relu"),
    Lora(rank=4, targets=("query", "key", "value", "attention_out", "ffn_in", "ffn_out")),
    PrefixTuning(length=5),
    Head(norms=True),
)


def prove(exact: Weights, laid: Weights) -> None:
    """Runs rows of several lengths with made adapters of every method in one batch, and then without prefixes.

    Args:
        exact: the base in float32, for the processor.
        laid: the same base on its device, for serving.

    Raises:
        BadBase: the device cannot run it, or computes something else.
    """
    tolerance, device = TOLERANCES[laid.dtype], laid.slots.device
    rows = [_row(exact, length) for length in LENGTHS]
    made = [BARE, *(_adapted(exact, method, seed) for seed, method in enumerate(METHODS))]
    expected = {adapter: _alone(exact, rows, adapter) for adapter in made}
    for adapters in (made, [one for one in made if not one.prefixes]):  # attention has a path of its own for each
        try:
            found = _together(laid, rows, adapters)
        except (RuntimeError, ValueError) as error:
            raise BadBase(f"device {device} cannot run this base: {error}; see --device and --dtype") from error
        for adapter, vectors in found.items():
            off = float((vectors - expected[adapter]).norm() / expected[adapter].norm())
            if not off <= tolerance:  # nor is NaN
                raise BadBase(
                    f"device {device} in {str(laid.dtype).removeprefix('torch.')} does not compute what the processor "
                    f"computes: vectors are off by {off:.3f} of their length, where {tolerance} is allowed; "
                    "see --device and --dtype"
                )


def _adapted(weights: Weights, method: AnyMethod, seed: int) -> Adaptation:
    """A made adapter that changes what the base says by much more than any tolerance."""
    dims, generator = weights.dims, torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in method.shapes(dims).items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            tensors[name] = 0.1 * noise + name.endswith("norm.weight")
        else:
            tensors[name] = 2 * noise if "prefix" in name else 0.5 * noise / shape[-1] ** 0.5
    return method.adapt(dims, tensors, torch.float32)


def _row(weights: Weights, length: int) -> TokenizedRow:
    words = np.random.default_rng(length).integers(len(weights.embeddings.word), size=length)
    return TokenizedRow(words, np.zeros(length, dtype=np.int64), truncated=False)


def _alone(exact: Weights, rows: Sequence[TokenizedRow], adapter: Adaptation) -> Tensor:
    """The rows' token vectors one after another, [tokens, hidden], when all have this adapter."""
    batch = pack(rows, [adapter.prefix_length] * len(rows))
    with torch.inference_mode():
        return encode(exact, batch, [Group(slice(0, len(rows)), slice(0, len(batch.ids)), adapter)])


def _together(laid: Weights, rows: Sequence[TokenizedRow], adapters: Sequence[Adaptation]) -> dict[Adaptation, Tensor]:
    """The same by adapter, all of them and all rows in one batch."""
    here = [placed(laid, adapter) for adapter in adapters]
    with torch.inference_mode():
        stages, spans = plan([Asked(row, adapter, 0) for row in rows for adapter in here], len(laid.layers))
        vectors = encode_stages(laid, on_device(stages, laid.slots.device)).float().cpu()
    each = [vectors[start:end] for start, end in spans]
    return {adapter: torch.cat(each[number :: len(adapters)]) for number, adapter in enumerate(adapters)}
