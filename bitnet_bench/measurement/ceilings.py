"""Measure what this machine can do at most: how fast it reads memory, and how fast it multiplies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from bitnet_bench.measurement.devices import Device

MIN_READ_BYTES, MAX_READ_BYTES = 1 << 16, 1 << 29
"""Smallest and largest size of the array that is read; the largest exceeds every cache."""
PRODUCT_SHAPE = (256, 2560, 2560)
"""Tokens, columns and rows of the products that are timed."""
MAX_REPEATS, MAX_TIMING_S = 5, 0.25
"""Number of repetitions of a piece of work, and the total seconds after which they end early: some dtypes are very slow
on some machines."""


@dataclass(frozen=True)
class ProductRates:
    """Operations per second of matrix products."""

    int8: float
    floats: float


def measure_machine(read_bytes: int, threads: int) -> Device:
    """Return the rates of this machine's cores; *read_bytes* are read repeatedly, and may fit into a cache."""
    size = min(max(read_bytes, MIN_READ_BYTES), MAX_READ_BYTES)
    rates = measure_rates(threads)
    return Device(
        name=f"this machine, {threads} threads",
        read_bytes_per_s=_measure_reading(size, threads),
        int8_ops_per_s=rates.int8,
        float_ops_per_s=rates.floats,
        source=f"measured now: a sum over {size / 2**20:.0f} MiB, products in torch and in the ternary kernel",
    )


@contextmanager
def set_threads(count: int) -> Iterator[None]:
    """Let torch use *count* threads inside the context."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def measure_rates(threads: int) -> ProductRates:
    """Return the best rates of int8 products (torch's and the ternary kernel's) and of float products.

    A machine multiplies integers at least as fast as floats; torch's int8 products are slow without AVX512.
    """
    import torch

    with set_threads(threads):
        floats = max(_measure_float_product(torch.float32), _measure_float_product(torch.bfloat16))
        return ProductRates(max(_measure_int8_product(), _measure_kernel_product(), floats), floats)


@cache
def _measure_reading(size: int, threads: int) -> float:
    import torch

    data = torch.ones(size // 4)
    passes = max(1, (1 << 26) // size)
    with set_threads(threads):
        return passes * size / _find_best_time(lambda: [data.sum() for _ in range(passes)])


def _measure_float_product(dtype: object) -> float:
    import torch

    tokens, columns, rows = PRODUCT_SHAPE
    x, w = torch.ones(tokens, columns, dtype=dtype), torch.ones(rows, columns, dtype=dtype)  # type: ignore[call-overload]
    return 2 * tokens * columns * rows / _find_best_time(lambda: x @ w.t())


def _measure_int8_product() -> float:
    import torch

    tokens, columns, rows = PRODUCT_SHAPE
    x, w = torch.ones(tokens, columns, dtype=torch.int8), torch.ones(rows, columns, dtype=torch.int8)
    return 2 * tokens * columns * rows / _find_best_time(lambda: torch._int_mm(x, w.t()))


def _measure_kernel_product() -> float:
    import torch

    from bitnet_bench.ternary import kernel
    from bitnet_bench.ternary.panels import to_panels

    if kernel.load_library() is None:
        return 0.0
    tokens, columns, rows = PRODUCT_SHAPE
    parts = kernel.JoinedLayers([(to_panels(torch.ones(rows, columns, dtype=torch.int8)), 1.0, rows, None)], columns)
    x, y = kernel.QuantizedRows.empty(tokens, columns), torch.empty(tokens, rows)
    kernel.quantize_rows(torch.ones(tokens, columns), tokens, x)
    return 2 * tokens * columns * rows / _find_best_time(lambda: parts(x, tokens, y))


def _find_best_time(work: Callable[[], object]) -> float:
    """Return the least seconds of *work*; the first call is a warm-up, and counts only if it is slow."""
    times = [_time(work)]
    if times[0] < MAX_TIMING_S:
        times = [_time(work)]
    while len(times) < MAX_REPEATS and sum(times) < MAX_TIMING_S:
        times.append(_time(work))
    return min(times)


def _time(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
