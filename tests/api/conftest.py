from collections.abc import Iterator
from pathlib import Path

import pytest

from service.engine.base_model import BaseModel
from tests.api.harness import Harness, harness


@pytest.fixture
def service(tmp_path: Path, tiny_base: BaseModel) -> Iterator[Harness]:
    """A service of one test, with an empty store."""
    with harness(tmp_path / "store", tiny_base) as service:
        yield service
