"""Read the energy counters of NVIDIA GPUs through NVML, the library that comes with their driver."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

from bitnet_bench.measure.energy.limits import measured_joules
from bitnet_bench.records import Measured, Unavailable

LIBRARY = "libnvidia-ml.so.1"


def driver_library() -> Any | None:
    """Return NVML as the driver installs it, or None."""
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError:
        return None


class NvmlMeter:
    """Sums the counters of all visible GPUs (Volta or newer): the board's energy, in millijoules."""

    def __init__(self, library: Any = None, clock: Callable[[], float] = time.perf_counter) -> None:
        self._library: Any = driver_library() if library is None else library
        self._clock = clock
        self._began = clock()
        self._reason: str | None = None
        self._devices = self._open()
        self._before: list[int] | None = None

    def why_absent(self) -> str | None:
        """Return why nothing can be read, or None if something can."""
        return None if self._read() else self._reason

    def start(self) -> None:
        """Note the counters."""
        self._before, self._began = self._read(), self._clock()

    def stop(self) -> Measured | Unavailable:
        """Return joules since `start`."""
        after, seconds = self._read(), self._clock() - self._began
        if self._before is None or after is None:
            return Unavailable(reason=self._reason or "it was not started")
        joules = (sum(after) - sum(self._before)) / 1e3
        return measured_joules(joules, seconds, self._limit_w(), "NVML total energy of all GPUs")

    def _open(self) -> list[Any]:
        """Return a handle of every GPU, or none and the reason."""
        if self._library is None:
            self._reason = f"there is no NVIDIA driver here ({LIBRARY} is missing)"
            return []
        count = ctypes.c_uint()
        if self._library.nvmlInit_v2() or self._library.nvmlDeviceGetCount_v2(ctypes.byref(count)) or not count.value:
            self._reason = "the NVIDIA driver shows no GPU"
            return []
        devices = [ctypes.c_void_p() for _ in range(count.value)]
        for index, device in enumerate(devices):
            if self._library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)):
                self._reason = f"the NVIDIA driver does not open GPU {index}"
                return []
        return devices

    def _read(self) -> list[int] | None:
        found = []
        for device in self._devices:
            value = ctypes.c_ulonglong()
            if self._library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(value)):
                self._reason = "this GPU counts no energy (older than Volta, or not permitted)"
                return None
            found.append(int(value.value))
        return found or None

    def _limit_w(self) -> float | None:
        total = 0.0
        for device in self._devices:
            value = ctypes.c_uint()
            if self._library.nvmlDeviceGetEnforcedPowerLimit(device, ctypes.byref(value)) or not value.value:
                return None
            total += value.value / 1e3
        return total or None
