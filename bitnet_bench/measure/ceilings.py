"""What this machine can do at most: how fast it reads memory, and how fast it multiplies."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

from bitnet_bench.measure.devices import Device

LARGEST_BYTES = 1 << 29
"""Beyond every cache."""
PRODUCT = (256, 2560, 2560)
"""Tokens, columns and rows of the products that are timed."""
REPEATS = 5


@cache
def this_machine(read_bytes: int, threads: int) -> Device:
    """Return the rates of this machine's cores; *read_bytes* is what is read again and again, which may fit a cache."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        floats = max(_product(torch.float32), _product(torch.bfloat16))
        return Device(
            name=f"this machine, {threads} threads",
            read_bytes_per_s=_reading(min(max(read_bytes, 1 << 16), LARGEST_BYTES)),
            int8_ops_per_s=max(_int8_product(), floats),
            float_ops_per_s=floats,
            source=f"measured now: a sum over {min(read_bytes, LARGEST_BYTES) / 2**20:.0f} MiB, products in torch",
        )
    finally:
        torch.set_num_threads(before)


def _reading(size: int) -> float:
    import torch

    data = torch.ones(size // 4)
    passes = max(1, (1 << 26) // size)
    return passes * size / _best(lambda: [data.sum() for _ in range(passes)])


def _product(dtype: object) -> float:
    import torch

    tokens, columns, rows = PRODUCT
    x, w = torch.ones(tokens, columns, dtype=dtype), torch.ones(rows, columns, dtype=dtype)  # type: ignore[call-overload]
    return 2 * tokens * columns * rows / _best(lambda: x @ w.t())


def _int8_product() -> float:
    import torch

    tokens, columns, rows = PRODUCT
    x, w = torch.ones(tokens, columns, dtype=torch.int8), torch.ones(rows, columns, dtype=torch.int8)
    return 2 * tokens * columns * rows / _best(lambda: torch._int_mm(x, w.t()))


def _best(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
