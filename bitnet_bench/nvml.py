"""Read what NVIDIA's driver tells of its GPUs through NVML, the library that comes with it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
TEXT_BYTES = 96
SM_CLOCK = 1
"""NVML_CLOCK_SM."""
UNLISTED = 2**64 - 1
"""NVML_VALUE_NOT_AVAILABLE, for the memory of a process."""
SLOWING = {
    0x0000000000000004: "power cap",
    0x0000000000000008: "hardware slowdown",
    0x0000000000000020: "heat (software)",
    0x0000000000000040: "heat (hardware)",
    0x0000000000000080: "power brake",
}
"""Bits of nvmlClocksThrottleReasons that slow a busy GPU down; idling and set clocks are left out."""


def driver_library() -> Any | None:
    """Return NVML as the driver installs it, or None."""
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError:
        return None


@dataclass(frozen=True)
class DriverVersion:
    """The driver of this machine: its own version, and the newest CUDA that it runs, as (major, minor)."""

    driver: str
    cuda: tuple[int, int]
    gpus: int


def read_driver(library: Any = None) -> DriverVersion | None:
    """Return the version of the driver and how many GPUs it shows; None without a driver."""
    library = driver_library() if library is None else library
    if library is None or library.nvmlInit_v2():
        return None
    text = ctypes.create_string_buffer(TEXT_BYTES)
    cuda, count = ctypes.c_int(), ctypes.c_uint()
    library.nvmlSystemGetDriverVersion(text, ctypes.c_uint(TEXT_BYTES))
    library.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(cuda))
    library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    return DriverVersion(text.value.decode(), (cuda.value // 1000, cuda.value % 1000 // 10), int(count.value))
