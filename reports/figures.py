"""Say numbers, and the lack of them, in words: a figure knows whether it was measured, modelled or is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bitnet_bench.records import Measured, Measurement, Modelled, Unavailable

DASH = "—"
NOT_RECORDED = Unavailable(reason="기록에 이 항목이 없음")


@dataclass(frozen=True)
class Figure:
    """What one cell shows. *detail* says how the number came about or, for a dash, why there is none."""

    text: str
    kind: Literal["plain", "measured", "modelled", "missing"] = "plain"
    word: str = ""
    detail: str = ""
    warning: bool = False


def missing(reason: str) -> Figure:
    """Return a dash with its reason."""
    return Figure(DASH, "missing", "없음", reason)


def figure(measurement: Measurement | None) -> Figure:
    """Return a measurement as it stands in a cell: the median of readings, a formula's value, or a dash."""
    measurement = measurement or NOT_RECORDED
    if isinstance(measurement, Unavailable):
        return missing(measurement.reason)
    if isinstance(measurement, Modelled):
        return Figure(quantity(measurement.value, measurement.unit), "modelled", "모델 추정", measurement.model)
    return Figure(quantity(measurement.median, measurement.unit), "measured", "측정", _spread(measurement))


def _spread(measurement: Measured) -> str:
    count = len(measurement.readings)
    if count == 1:
        return "1회"
    low, high = (quantity(of(measurement.readings), measurement.unit) for of in (min, max))
    figure_of, unit = low.split(" ", 1)
    return f"{count}회, {figure_of if high.endswith(f' {unit}') else low} ~ {high}"


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


def signed(value: float) -> str:
    """Return a difference of scores with its sign; what rounds to zero has none."""
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def span(interval: tuple[float, float] | None) -> str:
    """Return an interval of scores; a dash if there is none."""
    return DASH if interval is None else f"{points(interval[0])} ~ {points(interval[1])}"


def factor(ratio: float) -> str:
    """Return a ratio with two significant digits, three close to one."""
    return f"{ratio:.2f}배" if ratio < 1.1 else f"{ratio:.1f}배" if ratio < 10 else f"{ratio:.0f}배"
