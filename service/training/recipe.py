"""How to train: a recipe, and where to start by method."""

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Recipe:
    """How to train. What suits a method is in `RECIPES`."""

    epochs: int = 10
    learning_rate: float = 1e-3
    batch_size: int = 32
    warmup: float = 0.1  # share of the steps; linear up, then linear down to zero (paper, section 3.1)
    weight_decay: float = 0.01  # on matrices only
    dropout: float = 0.1
    clip: float = 1.0  # the gradient's norm
    beta2: float = 0.999  # how slowly Adam forgets how large gradients were; 0.98 keeps high rates from collapsing
    averaging: float | None = None  # η: about the last 1/η of the steps are averaged; None: the weights as they are
    patience: int | None = None  # epochs without a better figure after which to stop; None: never
    seed: int = 0
    full: bool = False  # train the base too
    dtype: torch.dtype = torch.bfloat16  # of the base's linear layers; what is trained stays float32

    def __post_init__(self) -> None:
        if self.full and self.dtype == torch.int16:
            raise ValueError("integers are for a base that stays as it is")


# Where to start by method: usual values; for bottlenecks, the best of a few trials on validation sets of short tasks.
ADAPTER = Recipe(learning_rate=2e-3, averaging=8.0, beta2=0.98)
RECIPES = {
    "houlsby": ADAPTER,
    "pfeiffer": ADAPTER,
    "parallel": ADAPTER,
    "lora": ADAPTER,
    "prefix": replace(ADAPTER, learning_rate=3e-3),
    "head": Recipe(epochs=60, learning_rate=1e-2, dropout=0.0, dtype=torch.float32),
    "norms": replace(ADAPTER, learning_rate=3e-3),  # head, with LayerNorms
    "full": Recipe(epochs=4, learning_rate=1e-4, averaging=8.0, full=True),
}
