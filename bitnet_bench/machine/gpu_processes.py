"""List the GPUs of this machine and the processes that compute on them, through NVML."""

from __future__ import annotations

import ctypes
from typing import Any

from bitnet_bench.machine.nvml import TEXT_BUFFER_BYTES, find_gpu_handles, load_driver_library

MAX_PROCESSES = 256
"""Number of processes of a GPU that are read; a driver that has more gives none."""
UNKNOWN_BYTES = 2**64 - 1
"""Value of NVML_VALUE_NOT_AVAILABLE."""


class _ProcessInfo(ctypes.Structure):
    """Structure nvmlProcessInfo_t, which versions 2 and 3 of the call share."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used_bytes", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


def read_gpu_models(library: Any = None) -> list[str]:
    """Return the name of each GPU that the driver shows; [] without a driver."""
    library = load_driver_library() if library is None else library
    handles = find_gpu_handles(library)
    text = ctypes.create_string_buffer(TEXT_BUFFER_BYTES)
    found = []
    for device in () if isinstance(handles, str) else handles:
        if not library.nvmlDeviceGetName(device, text, ctypes.c_uint(TEXT_BUFFER_BYTES)):
            found.append(text.value.decode(errors="replace"))
    return found


def read_gpu_processes(library: Any = None) -> dict[int, int | None]:
    """Return the bytes that each process holds on the GPUs, by its id; None where the driver does not say how many.

    Empty without a driver. A container sees the processes of its own only.
    """
    library = load_driver_library() if library is None else library
    handles = find_gpu_handles(library)
    found: dict[int, int | None] = {}
    for device in () if isinstance(handles, str) else handles:
        for info in _read_processes(library, device):
            held = None if info.used_bytes == UNKNOWN_BYTES else int(info.used_bytes)
            before = found.get(info.pid)
            found[info.pid] = held if before is None else before + (held or 0)
    return found


def _read_processes(library: Any, device: Any) -> list[_ProcessInfo]:
    infos, count = (_ProcessInfo * MAX_PROCESSES)(), ctypes.c_uint(MAX_PROCESSES)
    for version in ("v3", "v2"):
        read = getattr(library, f"nvmlDeviceGetComputeRunningProcesses_{version}", None)
        if read is not None:
            return [] if read(device, ctypes.byref(count), infos) else list(infos[: count.value])
    return []
