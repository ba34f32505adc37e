"""Find the dtype in which this machine multiplies matrices fastest."""

from __future__ import annotations

from typing import Literal

import torch

from bitnet_bench.machine.gpu import find_gpu


def fastest_dtype() -> Literal["fp32", "bf16"]:
    """Return bf16 if the GPU, or without one the processor, has instructions for it, else fp32.

    PyTorch emulates bfloat16 products on a CPU without them: 90 times slower than float32 on one with AVX2 only.
    """
    gpu = find_gpu()
    if gpu is not None:
        return "bf16" if gpu.has_bf16 else "fp32"
    return "bf16" if _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    if not hasattr(torch.cpu, "get_capabilities"):  # torch 2.8 lacks it
        return bool(torch.cpu._is_avx512_bf16_supported())
    return any(present for name, present in torch.cpu.get_capabilities().items() if "bf16" in name)
