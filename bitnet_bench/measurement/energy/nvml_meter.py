"""Read the energy counters of NVIDIA GPUs through NVML, the library that comes with their driver."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

from bitnet_bench.machine.gpu import find_gpu_uuid
from bitnet_bench.machine.nvml import find_gpu_handles, load_driver_library
from bitnet_bench.measurement.energy.limits import make_measured_joules
from bitnet_bench.protocols import Meter
from bitnet_bench.runs.records import Measured, Unavailable


class NvmlMeter(Meter):
    """Reads the counter of the GPU in use, or sums those of all (Volta or newer): the board's energy, in millijoules.

    The caller waits for the GPU before `start` and `stop`. The counter covers the whole board, other processes
    included.
    """

    def __init__(
        self, library: Any = None, clock: Callable[[], float] = time.perf_counter, uuid: str | None = None
    ) -> None:
        self._library: Any = load_driver_library() if library is None else library
        self._clock = clock
        self._began = clock()
        own = uuid or find_gpu_uuid() if self._library is not None else None
        found = find_gpu_handles(self._library, own)
        self._devices: list[Any] = [] if isinstance(found, str) else found
        self._reason: str | None = found if isinstance(found, str) else None
        self._method = "NVML total energy of " + ("the GPU" if own and len(self._devices) == 1 else "all GPUs")
        self._before: list[int] | None = None

    def why_absent(self) -> str | None:
        """Return why nothing can be read, or None if something can."""
        return None if self._read_counters() else self._reason

    def start(self) -> None:
        """Store the current values of the counters."""
        self._before, self._began = self._read_counters(), self._clock()

    def stop(self) -> Measured | Unavailable:
        """Return joules since `start`."""
        after, seconds = self._read_counters(), self._clock() - self._began
        if self._before is None or after is None:
            return Unavailable(reason=self._reason or "it was not started")
        joules = (sum(after) - sum(self._before)) / 1e3
        return make_measured_joules(joules, seconds, self._read_limit_w(), self._method)

    def _read_counters(self) -> list[int] | None:
        found = []
        for device in self._devices:
            value = ctypes.c_ulonglong()
            if self._library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(value)):
                self._reason = "this GPU counts no energy (older than Volta, or not permitted)"
                return None
            found.append(int(value.value))
        return found or None

    def _read_limit_w(self) -> float | None:
        total = 0.0
        for device in self._devices:
            value = ctypes.c_uint()
            if self._library.nvmlDeviceGetEnforcedPowerLimit(device, ctypes.byref(value)) or not value.value:
                return None
            total += value.value / 1e3
        return total or None
