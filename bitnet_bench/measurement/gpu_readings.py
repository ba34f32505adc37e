"""Read what a GPU did while a round ran: its own time, its clock and what held that down, and its memory."""

from __future__ import annotations

from typing import Any, Protocol

from bitnet_bench.machine.gpu import find_gpu_uuid
from bitnet_bench.machine.nvml import GpuState, find_gpu_handles, load_driver_library, read_gpu_state


class GpuReadings(Protocol):
    """What a round asks of the device that its contestant runs on."""

    def wait(self) -> None:
        """Return when the device has nothing left to do."""

    def begin(self) -> None:
        """Mark the beginning of some work on it."""

    def elapsed_s(self) -> float | None:
        """Return its own time from the mark to the end of what the session has waited for; None without events."""

    def read_state(self) -> GpuState | None:
        """Return its clock now; None without a GPU."""

    def used_bytes(self) -> int | None:
        """Return what is taken of its memory by all processes; None without a GPU."""

    def reset_peak(self) -> None:
        """Let the peak of its allocator begin anew."""


class NoGpu:
    """Reads nothing: the contestant runs on the CPU."""

    def wait(self) -> None:
        """Do nothing: what a CPU was asked is done when the call returns."""

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
    """Reads the GPU of a session that calls its `before_waiting` when all is queued, before it waits for the GPU."""

    def __init__(self, session: Any, library: Any = None, cuda: Any = None) -> None:
        """Read for *session*; *library* is NVML and *cuda* is `torch.cuda`, unless a test brings its own."""
        import torch

        self._session, self._cuda = session, torch.cuda if cuda is None else cuda
        self._library: Any = load_driver_library() if library is None else library
        found = find_gpu_handles(self._library, find_gpu_uuid())
        self._device = None if isinstance(found, str) or len(found) != 1 else found[0]
        self._began: Any = None
        self._ended: Any = None

    def wait(self) -> None:
        """Return when the GPU has nothing left to do."""
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
        """Return the time between the two events on the GPU; None if the session waited for nothing."""
        self._session.before_waiting = None
        return None if self._ended is None else float(self._began.elapsed_time(self._ended)) / 1e3

    def read_state(self) -> GpuState | None:
        """Return the GPU's clock now, and what holds it down."""
        return None if self._device is None else read_gpu_state(self._library, self._device)

    def used_bytes(self) -> int | None:
        """Return what is taken of the card's memory, as the driver counts it."""
        free, total = self._cuda.mem_get_info()
        return int(total - free)

    def reset_peak(self) -> None:
        """Let the peak of torch's allocator begin anew."""
        self._cuda.reset_peak_memory_stats()


def diff_moments(before: GpuState | None, after: GpuState | None) -> dict[str, Any]:
    """Return the fields of a `readings.Round` that tell what happened to a GPU between two moments."""
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
