"""Read the energy counters of a CPU package through the kernel's own files, or say why there are none."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from bitnet_bench.measurement.energy.limits import make_measured_joules
from bitnet_bench.protocols import Meter
from bitnet_bench.runs.records import Measured, Unavailable

POWERCAP = Path("/sys/class/powercap")
ENABLE_COMMAND = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj, again after every boot"


class RaplMeter(Meter):
    """Sums the package domains of Intel's and AMD's RAPL as the kernel's powercap interface shows them."""

    def __init__(self, root: Path = POWERCAP, clock: Callable[[], float] = time.perf_counter) -> None:
        self._domains = [d for d in sorted(root.glob("intel-rapl:*")) if d.name.count(":") == 1]
        self._clock = clock
        self._began = clock()
        self._before: list[int] | str = "it was not started"

    def why_absent(self) -> str | None:
        """Return why nothing can be read, or None if something can."""
        found = self._read_counters()
        return found if isinstance(found, str) else None

    def start(self) -> None:
        """Store the current values of the counters."""
        self._before, self._began = self._read_counters(), self._clock()

    def stop(self) -> Measured | Unavailable:
        """Return joules since `start`; a counter below its starting value has wrapped around once."""
        before, after = self._before, self._read_counters()
        seconds = self._clock() - self._began
        if isinstance(before, str) or isinstance(after, str):
            return Unavailable(reason=before if isinstance(before, str) else str(after))
        joules = 0.0
        for domain, first, last in zip(self._domains, before, after, strict=True):
            span = int((domain / "max_energy_range_uj").read_text())
            joules += ((last - first) if last >= first else last - first + span) / 1e6
        return make_measured_joules(joules, seconds, self._read_limit_w(), "RAPL package domains (powercap)")

    def _read_limit_w(self) -> float | None:
        """Return the most power that the packages may draw; None if the kernel reports no limit."""
        found = 0.0
        for domain in self._domains:
            limits = [_read_watts(file) for file in domain.glob("constraint_*_power_limit_uw")]
            if not any(limits):
                return None
            found += max(limits)
        return found

    def _read_counters(self) -> list[int] | str:
        if not self._domains:
            return "this machine shows no energy counter (no /sys/class/powercap/intel-rapl:*)"
        try:
            return [int((domain / "energy_uj").read_text()) for domain in self._domains]
        except PermissionError:
            return f"the energy counters are readable by root only ({ENABLE_COMMAND})"
        except (OSError, ValueError) as error:
            return f"the energy counters cannot be read: {error}"


def _read_watts(file: Path) -> float:
    try:
        return int(file.read_text()) / 1e6
    except (OSError, ValueError):
        return 0.0
