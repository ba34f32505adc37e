"""Find the dtype in which this machine multiplies matrices fastest."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Literal

import torch

from bitnet_bench.machine.gpu import find_gpu


def fastest_dtype() -> Literal["fp32", "bf16"]:
    """Return bf16 if the GPU, or without one the processor, has instructions for it, else fp32: half of the bytes.

    PyTorch emulates bfloat16 products on a CPU without them: 90 times slower than float32 on one with AVX2 only.
    """
    gpu = find_gpu()
    if gpu is not None:
        return "bf16" if gpu.has_bf16 else "fp32"
    return "bf16" if _cpu_has_bf16() else "fp32"


@lru_cache
def fastest_training_dtype() -> Literal["fp32", "bf16"]:
    """Return the dtype in which products of many rows are fastest, as training has them.

    A processor may have bfloat16 instructions that read fewer bytes for one row and are slower for many: an Intel
    Emerald Rapids (AVX512-BF16, no AMX) multiplies at 0.54 times float32's rate, an AMD Zen 4 at 2.3 times. So both
    are timed on a CPU that has them, which takes some 70 ms (docs/performance.md).
    """
    if fastest_dtype() == "fp32":
        return "fp32"
    if find_gpu() is not None:
        return "bf16"
    # a margin, so that chance does not decide between equals
    return "bf16" if _time_product(torch.bfloat16) < 0.8 * _time_product(torch.float32) else "fp32"


def _time_product(dtype: torch.dtype) -> float:
    """Return the least seconds of a 512 x 512 x 512 product; the first call, which prepares it, does not count."""
    rows, matrix = torch.ones(512, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        torch.nn.functional.linear(rows, matrix)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def _cpu_has_bf16() -> bool:
    if not hasattr(torch.cpu, "get_capabilities"):  # torch 2.8 lacks it
        return bool(torch.cpu._is_avx512_bf16_supported())
    return any(present for name, present in torch.cpu.get_capabilities().items() if "bf16" in name)
