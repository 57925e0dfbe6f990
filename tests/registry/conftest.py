"""A registry over an empty folder, files for it, and a restart."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from service.adapters.methods import Head
from service.engine.base_model import BaseModel
from service.registry.registry import Registry
from tests.registry.disks import open_registry
from tests.tiny import make_adapter


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """A second has nothing to win on so small a base, and waits long where others are at work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def files(tiny_base: BaseModel) -> list[bytes]:
    """Files that differ in content."""
    return [make_adapter(tiny_base, seed=seed, method=Head()) for seed in range(5)]


@pytest.fixture
def registry(tiny_base: BaseModel, tmp_path: Path) -> Registry:
    return open_registry(tiny_base, tmp_path)


@pytest.fixture
def reopen(tiny_base: BaseModel, tmp_path: Path) -> Callable[[], Registry]:
    """What a restart would serve."""
    return lambda: open_registry(tiny_base, tmp_path)
