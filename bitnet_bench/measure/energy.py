"""Read the energy counters of a CPU package, or say why there are none."""

from __future__ import annotations

from pathlib import Path

from bitnet_bench.records import Measured, Measurement, Unavailable

POWERCAP = Path("/sys/class/powercap")


class RaplMeter:
    """Sums the package domains of Intel's and AMD's RAPL as the kernel's powercap interface shows them."""

    def __init__(self, root: Path = POWERCAP) -> None:
        self._domains = [d for d in sorted(root.glob("intel-rapl:*")) if d.name.count(":") == 1]
        self._before: list[int] | str = "it was not started"

    def start(self) -> None:
        """Note the counters."""
        self._before = self._read()

    def stop(self) -> Measurement:
        """Return joules since `start`; a counter that passed its range wrapped round once."""
        before, after = self._before, self._read()
        if isinstance(before, str) or isinstance(after, str):
            return Unavailable(reason=before if isinstance(before, str) else str(after))
        joules = 0.0
        for domain, first, last in zip(self._domains, before, after, strict=True):
            span = int((domain / "max_energy_range_uj").read_text())
            joules += ((last - first) if last >= first else last - first + span) / 1e6
        return Measured(unit="J", method="RAPL package domains (powercap), idle power included", readings=(joules,))

    def _read(self) -> list[int] | str:
        if not self._domains:
            return "this machine shows no energy counter (no /sys/class/powercap/intel-rapl:*)"
        try:
            return [int((domain / "energy_uj").read_text()) for domain in self._domains]
        except PermissionError:
            return "the energy counters are readable by root only (chmod a+r /sys/class/powercap/*/energy_uj)"
