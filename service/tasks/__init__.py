"""The kinds of task. A new one is a file here and a row in `KINDS`."""

from service.adapters.manifest import Manifest
from service.adapters.methods import Dims, Shape
from service.errors import BadAdapter
from service.tasks.base import Floats, Kind, Prediction
from service.tasks.classification import Classification
from service.tasks.embedding import Embedding
from service.tasks.regression import Regression

KINDS: dict[str, Kind] = {kind.name: kind for kind in (Classification(), Regression(), Embedding())}


def kind_of(manifest: Manifest) -> Kind:
    kind = KINDS.get(manifest.kind)
    if kind is None:
        raise BadAdapter(f"manifest: kind {manifest.kind} is not served; known are {', '.join(KINDS)}")
    return kind


def expected_shapes(manifest: Manifest, dims: Dims) -> dict[str, Shape]:
    """Every tensor that an adapter with this manifest holds: the method's and the head's."""
    problem = manifest.method.check(dims)
    if problem:
        raise BadAdapter(f"manifest: {problem}")
    return manifest.method.shapes(dims) | kind_of(manifest).head_shapes(manifest, dims)


__all__ = ["KINDS", "Floats", "Kind", "Prediction", "expected_shapes", "kind_of"]
