"""Read the state of a GPU during a round: its own time, its clock and what slowed it, and its memory."""

from __future__ import annotations

from typing import Any, Protocol

from bitnet_bench.machine.gpu import find_gpu_uuid
from bitnet_bench.machine.nvml import GpuState, find_gpu_handles, load_driver_library, read_gpu_state


class GpuReadings(Protocol):
    """Readings of the device that a round's candidate runs on."""

    def wait(self) -> None:
        """Wait until the device has finished its work."""

    def begin(self) -> None:
        """Mark the beginning of some work on the device."""

    def elapsed_s(self) -> float | None:
        """Return the device's own time from the mark to the end of what the session waited for; None without events."""

    def read_state(self) -> GpuState | None:
        """Return the device's clock now; None without a GPU."""

    def used_bytes(self) -> int | None:
        """Return the bytes of the device's memory that all processes use; None without a GPU."""

    def reset_peak(self) -> None:
        """Reset the peak of the device's allocator."""


class NoGpu:
    """Reads nothing: the candidate runs on the CPU."""

    def wait(self) -> None:
        """Do nothing: work on a CPU is done when the call returns."""

    def begin(self) -> None:
        """Do nothing."""

    def elapsed_s(self) -> float | None:
        """Return None."""
        return None

    def read_state(self) -> GpuState | None:
        """Return None."""
        return None

    def used_bytes(self) -> int | None:
        """Return None."""
        return None

    def reset_peak(self) -> None:
        """Do nothing."""


class CudaReadings:
    """Reads the GPU of a session that calls its `before_waiting` when all work is queued, before it waits."""

    def __init__(self, session: Any, library: Any = None, cuda: Any = None) -> None:
        """Read for *session*; *library* is NVML and *cuda* is `torch.cuda`, unless a test passes its own."""
        import torch

        self._session, self._cuda = session, torch.cuda if cuda is None else cuda
        self._library: Any = load_driver_library() if library is None else library
        found = find_gpu_handles(self._library, find_gpu_uuid())
        self._device = None if isinstance(found, str) or len(found) != 1 else found[0]
        self._began: Any = None
        self._ended: Any = None

    def wait(self) -> None:
        """Wait until the GPU has finished its work."""
        self._cuda.synchronize()

    def begin(self) -> None:
        """Record an event, and another one whenever the session is about to wait."""
        self._began, self._ended = self._cuda.Event(enable_timing=True), None
        self._session.before_waiting = self._record_end
        self._began.record()

    def _record_end(self) -> None:
        self._ended = self._cuda.Event(enable_timing=True)
        self._ended.record()

    def elapsed_s(self) -> float | None:
        """Return the time between the two events on the GPU; None if the session did not wait."""
        self._session.before_waiting = None
        return None if self._ended is None else float(self._began.elapsed_time(self._ended)) / 1e3

    def read_state(self) -> GpuState | None:
        """Return the GPU's clock now, and what slows it."""
        return None if self._device is None else read_gpu_state(self._library, self._device)

    def used_bytes(self) -> int | None:
        """Return the bytes of the card's memory that are in use, as the driver counts them."""
        free, total = self._cuda.mem_get_info()
        return int(total - free)

    def reset_peak(self) -> None:
        """Reset the peak of torch's allocator."""
        self._cuda.reset_peak_memory_stats()


def diff_moments(before: GpuState | None, after: GpuState | None) -> dict[str, Any]:
    """Return the fields of a `readings.Round` that describe a GPU between two moments."""
    if before is None or after is None:
        return {}
    clocks = [moment.frequency_hz for moment in (before, after) if moment.frequency_hz is not None]
    return {
        "gpu_frequency_hz": max(clocks, default=None),
        "gpu_slowed_by": sorted({*before.slowed_by, *after.slowed_by}),
        "gpu_heat_s": _diff_seconds(before.heat_ns, after.heat_ns),
        "gpu_power_s": _diff_seconds(before.power_ns, after.power_ns),
    }


def _diff_seconds(before: int | None, after: int | None) -> float | None:
    return None if before is None or after is None else max(0, after - before) / 1e9
