"""One temperature that makes scores honest: the one under which the right labels were likeliest.

Guo et al. 2017 (arXiv 1706.04599), section 4.2: dividing all logits by one number changes no answer,
only how sure it is. Where a validation set holds no mistake, nothing would be too sure, so it is read as if one of its
n judgements more were a guess (as Platt 1999 smooths the targets of support vector machines).
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

GRID = np.geomspace(0.05, 20.0, 121)


def fit_temperature(logits: NDArray[np.float32], right: NDArray[np.int64]) -> float:
    """For logits [n, labels] whose right labels have the numbers `right` [n]; -inf where a label is impossible."""
    wanted, smoothing = torch.from_numpy(right), _smoothing(len(right))
    possible = torch.from_numpy(np.isfinite(logits))

    def loss(t: np.float32) -> float:
        by_label = torch.log_softmax(torch.from_numpy(logits / t), dim=-1)
        guess = torch.where(possible, by_label, 0).sum(dim=1) / possible.sum(dim=1)
        return (smoothing - 1) * by_label.gather(1, wanted[:, None]).mean().item() - smoothing * guess.mean().item()

    return _best(loss)


def fit_sigmoid_temperature(logits: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """For logits [n, labels], each label for itself; `right` [n, labels] holds 0 and 1."""
    smoothing = _smoothing(len(right))
    wanted = torch.from_numpy(right * np.float32(1 - smoothing) + np.float32(smoothing / 2))
    return _best(lambda t: F.binary_cross_entropy_with_logits(torch.from_numpy(logits / t), wanted).item())


def _smoothing(judgements: int) -> float:
    return 1 / (judgements + 1)


def _best(loss: Callable[[np.float32], float]) -> float:
    """The grid's best, made finer once around it; the loss has one valley."""
    coarse = min(GRID, key=lambda t: loss(np.float32(t)))
    step = GRID[1] / GRID[0]
    fine = np.geomspace(coarse / step, coarse * step, 21)
    return round(float(min(fine, key=lambda t: loss(np.float32(t)))), 4)
