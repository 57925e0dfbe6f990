"""What a processor has decides which kernels run on it, and in which precision."""

from collections.abc import Mapping

import pytest

from service.engine import native
from service.engine.base_model import BaseModel
from service.engine.layout import chosen, why
from service.engine.native.binding import BUILDS, build_for
from tests.layouts import without_kernels

AVX512, AVX2 = (dict.fromkeys(build.needs, True) for build in BUILDS)


@without_kernels
@pytest.mark.parametrize(
    ("features", "instructions"),
    [
        (AVX2, "avx2"),
        (AVX2 | AVX512, "avx512"),
        (AVX2 | AVX512 | {"avx512_vl": False}, "avx2"),
        (AVX2 | {"fma3": False}, None),
        ({}, None),
    ],
)
def test_the_kernels_are_those_that_a_processor_runs(features: Mapping[str, bool], instructions: str | None) -> None:
    build = build_for(features)
    assert (build.instructions if build else None) == instructions


@pytest.mark.parametrize(
    ("features", "integers", "precision", "said"),
    [
        ({"amx_bf16": True}, ["int16", "int8"], "bfloat16", "which this processor multiplies itself"),
        ({"avx512_bf16": True}, [], "bfloat16", "which this processor multiplies itself"),
        ({"avx512_bf16": True, "avx512_fp16": True}, [], "float32", "as this processor has no bfloat16 that is faster"),
        (
            {"avx512_bf16": True},
            ["int16", "int8"],
            "int16",
            "which this processor multiplies faster than float32, and sums exactly; int8 is faster, and less exact",
        ),
        (AVX2, ["int16"], "int16", "which this processor multiplies faster than float32, and sums exactly"),
        (AVX2, [], "float32", "as this processor has no bfloat16 that is faster"),
    ],
)
def test_auto_takes_the_fastest_precision_that_costs_rounding_alone_and_says_why(
    tiny_base: BaseModel,
    monkeypatch: pytest.MonkeyPatch,
    features: Mapping[str, bool],
    integers: list[str],
    precision: str,
    said: str,
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: features)
    monkeypatch.setattr(native, "available", lambda precision: precision in integers)
    assert chosen("auto", tiny_base.weights, serving=True) == precision
    assert why(precision) == said
    assert chosen("auto", tiny_base.weights, serving=False) == "float32"
