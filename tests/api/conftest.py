from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.engine.base_model import BaseModel
from service.engine.engine import Engine
from tests.api.gate import Gate
from tests.api.harness import Harness, harness


@pytest.fixture
def service(tmp_path: Path, tiny_base: BaseModel) -> Iterator[Harness]:
    """A service of one test, with an empty store."""
    with harness(tmp_path / "store", tiny_base) as service:
        yield service


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(Engine.run)
    monkeypatch.setattr(Engine, "run", lambda engine, rows: gate.run(engine, rows))
    yield gate
    gate.open()


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as callers:
        yield callers
