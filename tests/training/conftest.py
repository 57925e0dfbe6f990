"""What the training tests share: one thread, few resamples, and a whole training of each kind from files."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch

from service.adapters.manifest import KindName
from service.adapters.methods import AnyMethod, Head, Houlsby, Lora, Parallel
from service.engine.base_model import BaseModel
from service.training.outcome import Outcome
from service.training.plan import Data, Plan, read_data
from service.training.recipe import Recipe
from service.training.run import run
from tests.training.toys import TOYS, write_jsonl

RECIPE = Recipe(epochs=4, learning_rate=1e-2, batch_size=16, dtype=torch.float32)
LEARNS: dict[KindName, tuple[AnyMethod, Recipe]] = {
    "classification": (Houlsby(bottleneck=8), RECIPE),
    "multilabel": (Lora(rank=8, norms=True), replace(RECIPE, epochs=8)),
    "regression": (Parallel(bottleneck=8), replace(RECIPE, epochs=16)),
    "tagging": (Lora(rank=8, norms=True), replace(RECIPE, epochs=10)),
    "answer": (Head(), replace(RECIPE, epochs=20, learning_rate=3e-2, dropout=0.0)),
}


@dataclass(frozen=True)
class Run:
    """A training from files, and what it came to."""

    plan: Plan
    data: Data
    outcome: Outcome

    @property
    def file(self) -> bytes:
        assert self.outcome.file is not None
        return self.outcome.file


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """A second has nothing to win on so small a base, and waits long where others are at work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package", autouse=True)
def _few_resamples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.training.measure.RESAMPLES", 50)
        yield


@pytest.fixture(scope="package")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[KindName, Plan]:
    folder = tmp_path_factory.mktemp("data")
    return {
        kind: Plan(
            task=f"{kind}-toy",
            kind=kind if kind == "regression" else None,  # its toy numbers are few and whole
            method=method,
            recipe=recipe,
            training=write_jsonl(folder / f"{kind}.jsonl", kind, TOYS[kind](160, 1)),
            test=write_jsonl(folder / f"{kind}-test.jsonl", kind, TOYS[kind](40, 2)),
            max_length=32,
            licence="CC0",
        )
        for kind, (method, recipe) in LEARNS.items()
    }


@pytest.fixture(scope="package")
def runs(tiny_base: BaseModel, plans: dict[KindName, Plan]) -> dict[KindName, Run]:
    found = {}
    for kind, plan in plans.items():
        data = read_data(plan)
        found[kind] = Run(plan, data, run(tiny_base, plan, data))
    return found
