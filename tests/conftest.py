"""What the tests share: a tiny random base, the real one, and how hypothesis searches."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from service.engine.base_model import BaseModel, load_base
from tests.s3 import Endpoint, endpoint
from tests.tiny import build_tiny

# The same examples on every machine: a red run is a change, never bad luck. `make soak` searches at random, for long:
# it names its profile on pytest's command line, which is read after this.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("soak", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_base(tiny_folder: Path) -> BaseModel:
    return load_base(str(tiny_folder))


@pytest.fixture(scope="session")
def real_base() -> BaseModel:
    return load_base()


@pytest.fixture(scope="session")
def _one_s3() -> Iterator[Endpoint]:
    with endpoint() as found:
        yield found


@pytest.fixture
def s3(_one_s3: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """An S3 endpoint, with what is needed to reach it in the environment."""
    for name, value in _one_s3.environment.items():
        monkeypatch.setenv(name, value)
    return _one_s3
