"""Read the counters of Apple and Jetson boards through zeus, if it is installed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from bitnet_bench.measurement.energy.limits import make_measured_joules
from bitnet_bench.protocols import Meter
from bitnet_bench.runs.records import Measured, Unavailable

CHIP_FIELDS = (("total_energy_mj",), ("cpu_total_mj", "dram_mj", "gpu_mj", "ane_mj"))
"""Fields of zeus that add up to the energy of a chip, in millijoules: one on Jetson, several on Apple silicon."""


class ZeusMeter(Meter):
    """Sums what zeus measures: the whole chip on Apple silicon and Jetson, else CPU packages and GPUs."""

    def __init__(self, monitor: Any = None, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._began = clock, clock()
        self._monitor: Any = monitor
        self._reason = "it was not started"
        self._running = False

    def start(self) -> None:
        """Open a window of measurement."""
        self._monitor = self._monitor or self._open_monitor()
        if self._monitor is None:
            return
        self._began = self._clock()
        self._monitor.begin_window("bitnet-bench")
        self._running = True

    def stop(self) -> Measured | Unavailable:
        """Close the window and return its joules."""
        if not self._running:
            return Unavailable(reason=self._reason)
        self._running = False
        found = self._monitor.end_window("bitnet-bench")
        joules = sum_window_joules(found)
        if joules is None:
            return Unavailable(reason="zeus measures neither a chip, nor a CPU, nor a GPU here")
        return make_measured_joules(
            joules, self._clock() - self._began, None, "zeus: " + ", ".join(_list_sources(found))
        )

    def _open_monitor(self) -> Any:
        try:
            from zeus.monitor import ZeusMonitor

            return ZeusMonitor(approx_instant_energy=False)
        except ImportError:
            self._reason = "zeus is not installed (pip install zeus)"
        except Exception as error:  # a driver may raise anything, and its message is the reason
            self._reason = f"zeus measures nothing here: {error}"
        return None


def sum_window_joules(found: Any) -> float | None:
    """Return the joules of a zeus window: of the chip, whose figure includes all others, else of CPUs and GPUs."""
    chip = getattr(found, "soc_energy", None)
    for names in CHIP_FIELDS:
        parts = [value for name in names if (value := getattr(chip, name, None)) is not None]
        if parts:
            return float(sum(parts)) / 1e3
    known: list[float] = []
    for name in ("cpu_energy", "gpu_energy"):
        by_device: Mapping[int, float] | None = getattr(found, name, None)
        known += list((by_device or {}).values())
    return sum(known) if known else None


def _list_sources(found: Any) -> list[str]:
    return [name for name in ("soc_energy", "cpu_energy", "gpu_energy") if getattr(found, name, None)]
