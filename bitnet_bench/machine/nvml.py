"""Read the state of GPUs through NVML, the library of NVIDIA's driver."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

NVML_LIBRARY = "libnvidia-ml.so.1"
TEXT_BUFFER_BYTES = 96
SM_CLOCK = 1
"""Value of NVML_CLOCK_SM."""
POWER_POLICY, HEAT_POLICY = 0, 1
"""Values of NVML_PERF_POLICY_POWER and _THERMAL."""
SLOWDOWN_REASONS = {
    0x0000000000000004: "power cap",
    0x0000000000000008: "hardware slowdown",
    0x0000000000000020: "heat (software)",
    0x0000000000000040: "heat (hardware)",
    0x0000000000000080: "power brake",
}
"""Bits of nvmlClocksThrottleReasons that slow a busy GPU down, without those for idling and set clocks."""


def load_driver_library() -> Any | None:
    """Return NVML as the driver installs it, or None."""
    try:
        return ctypes.CDLL(NVML_LIBRARY)
    except OSError:
        return None


@dataclass(frozen=True)
class DriverVersion:
    """The driver of this machine: its own version, and the newest CUDA that it runs, as (major, minor)."""

    driver: str
    cuda: tuple[int, int]
    gpus: int


def read_driver(library: Any = None) -> DriverVersion | None:
    """Return the version of the driver and the number of GPUs that it shows; None without a driver."""
    library = load_driver_library() if library is None else library
    if library is None or library.nvmlInit_v2():
        return None
    text = ctypes.create_string_buffer(TEXT_BUFFER_BYTES)
    cuda, count = ctypes.c_int(), ctypes.c_uint()
    library.nvmlSystemGetDriverVersion(text, ctypes.c_uint(TEXT_BUFFER_BYTES))
    library.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(cuda))
    library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    return DriverVersion(text.value.decode(), (cuda.value // 1000, cuda.value % 1000 // 10), int(count.value))


def find_gpu_handles(library: Any, uuid: str | None = None) -> list[Any] | str:
    """Return NVML's handle of the GPU *uuid*, or of all GPUs if it is None or unknown; or why there are none."""
    if library is None:
        return f"there is no NVIDIA driver here ({NVML_LIBRARY} is missing)"
    count = ctypes.c_uint()
    if library.nvmlInit_v2() or library.nvmlDeviceGetCount_v2(ctypes.byref(count)) or not count.value:
        return "the NVIDIA driver shows no GPU"
    if uuid is not None:
        own = ctypes.c_void_p()
        if not library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(own)):
            return [own]
    devices = [ctypes.c_void_p() for _ in range(count.value)]
    for index, device in enumerate(devices):
        if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)):
            return f"the NVIDIA driver does not open GPU {index}"
    return devices


class _Violation(ctypes.Structure):
    """Structure nvmlViolationTime_t, in nanoseconds."""

    _fields_ = (("reference", ctypes.c_ulonglong), ("violation", ctypes.c_ulonglong))


@dataclass(frozen=True)
class GpuState:
    """A GPU at one moment; a field is None if the driver does not report it."""

    frequency_hz: float | None
    """Clock of its multiprocessors."""
    slowed_by: tuple[str, ...]
    """Reasons that hold its clock down now."""
    heat_ns: int | None
    """Time for which heat has held its clock down, since the driver was loaded."""
    power_ns: int | None
    """Time for which its power limit has held its clock down, since the driver was loaded."""


def read_gpu_state(library: Any, device: Any) -> GpuState:
    """Read the clock of *device* and what holds it down."""
    megahertz, reasons = ctypes.c_uint(), ctypes.c_ulonglong()
    clock_fails = library.nvmlDeviceGetClockInfo(device, SM_CLOCK, ctypes.byref(megahertz))
    reasons_fail = library.nvmlDeviceGetCurrentClocksThrottleReasons(device, ctypes.byref(reasons))
    return GpuState(
        None if clock_fails or not megahertz.value else 1e6 * megahertz.value,
        () if reasons_fail else tuple(name for bit, name in SLOWDOWN_REASONS.items() if reasons.value & bit),
        _read_violation_ns(library, device, HEAT_POLICY),
        _read_violation_ns(library, device, POWER_POLICY),
    )


def _read_violation_ns(library: Any, device: Any, policy: int) -> int | None:
    found = _Violation()
    if library.nvmlDeviceGetViolationStatus(device, policy, ctypes.byref(found)):
        return None
    return int(found.violation)
