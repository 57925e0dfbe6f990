"""In which precision a training does its maths, where nobody says."""

import torch


def fast_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies in it; elsewhere torch would emulate it, slower than float32."""
    found = torch.cpu.get_capabilities()
    return torch.bfloat16 if found.get("avx512_bf16") or found.get("amx_bf16") else torch.float32
