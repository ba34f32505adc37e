"""Turn numbers, and the lack of them, into cells: measured, modelled or missing with its reason."""

from __future__ import annotations

from bitnet_bench.reports.sections import Cell
from bitnet_bench.runs.records import Measured, Measurement, Modelled, Unavailable
from bitnet_bench.wording import Said, plain, say

DASH = "—"


def missing(reason: Said) -> Cell:
    """Return a dash with its reason."""
    return Cell(plain(DASH), (reason,), "missing")


def figure(measurement: Measurement | None) -> Cell:
    """Return a measurement as it stands in a cell: the median of readings, a formula's value, or a dash."""
    if measurement is None:
        return missing(say("figure.not-recorded"))
    if isinstance(measurement, Unavailable):
        return missing(plain(measurement.reason))
    if isinstance(measurement, Modelled):
        value = plain(quantity(measurement.value, measurement.unit))
        return Cell(value, (say("figure.modelled") + plain(f": {measurement.model}"),), "modelled")
    return Cell(plain(quantity(measurement.median, measurement.unit)), (_spread(measurement),), "measured")


def value_of(measurement: Measurement | None) -> float | None:
    """Return the number of a measurement, if it has one."""
    if isinstance(measurement, Measured):
        return measurement.median
    return measurement.value if isinstance(measurement, Modelled) else None


def _spread(measurement: Measured) -> Said:
    count = len(measurement.readings)
    if count == 1:
        return say("figure.once")
    low, high = (quantity(of(measurement.readings), measurement.unit) for of in (min, max))
    figure_of, unit = low.split(" ", 1)
    shown = figure_of if high.endswith(f" {unit}") else low
    return say("figure.readings", count=count, low=shown, high=high)


def quantity(value: float, unit: str) -> str:
    """Return *value* with its unit, three significant digits."""
    if unit == "B":
        return size(value)
    if unit in ("s", "s/token") and abs(value) < 1:
        return f"{number(value * 1000)} {unit.replace('s', 'ms', 1)}"
    return f"{number(value)} {unit.replace('tokens/s', 'tok/s')}"


def size(count: float) -> str:
    """Return a number of bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{number(count)} {unit}"
        count /= 1024
    return f"{number(count)} TiB"


def number(value: float) -> str:
    """Return three significant digits, or the whole number from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def points(value: float) -> str:
    """Return a score."""
    return f"{value:.1f}".replace("-", "−")


def span(low: str, high: str) -> Said:
    """Return two limits as a span."""
    return Said(f"{low} ~ {high}", f"{low} to {high}")


def factor(ratio: float) -> Said:
    """Return a ratio with two significant digits, three close to one."""
    shown = f"{ratio:.2f}" if ratio < 1.1 else f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"
    return Said(f"{shown}배", f"{shown}×")
