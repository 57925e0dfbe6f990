"""The loss under which a training counts as learning something is just that of the best answer that never changes."""

import math

import pytest
import torch
from torch import Tensor

from service.adapters.manifest import KindName
from service.engine.base_model import BaseModel
from service.tasks import KINDS
from service.training.sets import prepare
from tests.tiny import make_manifest
from tests.training.toys import LABELS, TOYS


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression", "tagging"])
def test_no_constant_output_has_a_lower_loss(tiny_base: BaseModel, kind: KindName) -> None:
    manifest = make_manifest(tiny_base, kind=kind, labels=LABELS.get(kind, ()))
    examples = prepare(tiny_base, manifest, TOYS[kind](50, 3))
    lengths = torch.tensor([len(row) for row in examples.rows])
    count = int(lengths.sum()) if KINDS[kind].per_token else len(lengths)
    constant = torch.zeros(KINDS[kind].width(manifest), requires_grad=True)
    finder = torch.optim.LBFGS([constant], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        finder.zero_grad()
        loss = KINDS[kind].loss(constant.expand(count, -1), examples.targets, lengths)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    finder.step(loss)  # type: ignore[no-untyped-call]
    assert KINDS[kind].idle_loss(examples.targets) == pytest.approx(loss().item(), rel=1e-3)


def test_where_it_is_not_known_nothing_counts_as_idle() -> None:
    assert KINDS["answer"].idle_loss([]) == math.inf
