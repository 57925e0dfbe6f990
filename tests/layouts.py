"""The ways a base may lie in memory: as it was loaded, for torch with adapters in slots, and for our kernels."""

from typing import Literal, get_args

import pytest

from service.engine import native
from service.engine.base_model import DEFAULT_BASE, BaseModel, load_base

Layout = Literal["plain", "slots", "native"]

without_kernels = pytest.mark.skipif(not native.available("float32"), reason="no kernels for this processor")
every_layout = pytest.mark.parametrize(
    "layout", [pytest.param(layout, marks=without_kernels if layout == "native" else ()) for layout in get_args(Layout)]
)


def load_in(layout: Layout, name: str = DEFAULT_BASE, dtype: str = "float32") -> BaseModel:
    if layout == "plain":
        return load_base(name, dtype)
    with pytest.MonkeyPatch.context() as patch:
        if layout == "slots":
            patch.setattr(native, "available", lambda precision: False)
        base = load_base(name, dtype, serving=True)
    assert (base.weights.native is not None) == (layout == "native")
    assert (base.weights.slots is not None) == (layout == "slots")
    return base
