"""Read the state of the machine during a round: work of other processes and machines, clock, heat, swapping."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bitnet_bench.processes import count_cores as count_cores

Number = TypeVar("Number", int, float)
PACE_BYTES, PACE_PASSES, PACE_TRIES = 1 << 17, 60, 3
"""Bytes that are hashed from a core's own cache, passes over them (about 5 ms), and the number of tries."""
PROC, CPUS = Path("/proc"), Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class MachineMoment:
    """The counters at one moment; None for those that this machine does not keep."""

    time_s: float
    foreign_s: float
    """CPU seconds of all processes except this one and its children, since boot."""
    stolen_s: float | None
    """CPU seconds that this virtual machine wanted and its host gave to others, since boot."""
    frequency_hz: float | None
    throttled: int | None
    swapped_bytes: int | None


def read_moment(proc: Path = PROC, cpus: Path = CPUS) -> MachineMoment:
    """Read the counters."""
    foreign, stolen = _read_foreign_times()
    return MachineMoment(
        time.perf_counter(),
        foreign,
        stolen,
        _read_frequency(proc, cpus),
        _count_throttled(cpus),
        _count_swapped_bytes(proc),
    )


def diff_moments(before: MachineMoment, after: MachineMoment, cores: int) -> dict[str, Any]:
    """Return the fields of a `readings.Round` that describe the time between two moments."""
    core_seconds = (after.time_s - before.time_s) * cores
    stolen = _subtract_known(before.stolen_s, after.stolen_s)
    clocks = [m.frequency_hz for m in (before, after) if m.frequency_hz is not None]
    return {
        "foreign_share": min(1.0, max(0.0, (after.foreign_s - before.foreign_s) / core_seconds)),
        "stolen_share": None if stolen is None else min(1.0, max(0.0, stolen / core_seconds)),
        "frequency_hz": max(clocks, default=None),
        "throttled": _subtract_known(before.throttled, after.throttled),
        "swapped_bytes": _subtract_known(before.swapped_bytes, after.swapped_bytes),
    }


def measure_pace(threads: int) -> float:
    """Return the seconds that a fixed piece of work takes on the slowest of *threads* threads, the best of a few tries.

    A virtual machine does not see which other machines share its cores' execution units: load, stolen time and clock do
    not show it, yet products take up to 1.6 times as long. A hash then takes twice as long.
    """
    with ThreadPoolExecutor(threads) as pool:
        return max(pool.map(_measure_thread_pace, range(threads)))


def _measure_thread_pace(thread: int) -> float:
    data, found = bytes(PACE_BYTES), []
    for _ in range(PACE_TRIES):
        hashed = hashlib.sha256()
        started = time.perf_counter()
        for _ in range(PACE_PASSES):
            hashed.update(data)  # releases the GIL, so that other threads run
        found.append(time.perf_counter() - started)
    return min(found)


def _subtract_known(before: Number | None, after: Number | None) -> Number | None:
    return None if before is None or after is None else after - before


def _read_foreign_times() -> tuple[float, float | None]:
    """Return the CPU seconds of other processes of this machine, and of other machines of its host."""
    import psutil

    times, own = psutil.cpu_times(), psutil.Process()
    ours = 0.0
    for process in [own, *own.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            used = process.cpu_times()
            ours += used.user + used.system
    return float(times.user + times.system - ours), getattr(times, "steal", None)


def _read_frequency(proc: Path, cpus: Path) -> float | None:
    """Return the mean clock of the cores in Hz, from cpufreq or else from /proc/cpuinfo."""
    clocks = [_read_number(file) for file in cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    known = [1e3 * clock for clock in clocks if clock is not None]
    if not known:
        with contextlib.suppress(OSError, ValueError):
            lines = (proc / "cpuinfo").read_text().splitlines()
            known = [1e6 * float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return sum(known) / len(known) if known else None


def _count_throttled(cpus: Path) -> int | None:
    counts = [_read_number(file) for file in cpus.glob("cpu[0-9]*/thermal_throttle/*_throttle_count")]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _count_swapped_bytes(proc: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        fields = dict(line.split() for line in (proc / "vmstat").read_text().splitlines())
        pages = int(fields.get("pswpin", 0)) + int(fields.get("pswpout", 0))
        return pages * os.sysconf("SC_PAGE_SIZE")
    return None


def _read_number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
