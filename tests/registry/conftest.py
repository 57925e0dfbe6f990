"""A registry over an empty folder, files for it, and a restart."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.adapters.methods import Head
from service.engine.base_model import BaseModel
from service.registry.registry import Registry
from tests.registry.disks import open_registry
from tests.tiny import make_adapter


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
