"""Format numbers as cells: measured, modelled, or missing with a reason."""

from __future__ import annotations

from bitnet_bench.reports.sections import Cell
from bitnet_bench.runs.records import Measured, Measurement, Modelled, Unavailable
from bitnet_bench.wording import Count, Text, get_text, plain_text
from bitnet_bench.wording.estimates import format_number_text
from bitnet_bench.wording.sentences import translate_sentence

DASH = "—"


def make_missing_cell(reason: Text) -> Cell:
    """Return a dash with its reason."""
    return Cell(plain_text(DASH), (reason,), "missing")


def make_figure_cell(measurement: Measurement | None) -> Cell:
    """Return the cell of a measurement: the median of readings, a formula's value, or a dash."""
    if measurement is None:
        return make_missing_cell(get_text("figure.not-recorded"))
    if isinstance(measurement, Unavailable):
        return make_missing_cell(translate_sentence(measurement.reason))
    if isinstance(measurement, Modelled):
        value = plain_text(format_quantity(measurement.value, measurement.unit))
        model = get_text("figure.modelled") + plain_text(": ") + translate_sentence(measurement.model)
        return Cell(value, (model,), "modelled")
    return Cell(
        plain_text(format_quantity(measurement.median, measurement.unit)), (_format_spread(measurement),), "measured"
    )


def find_value(measurement: Measurement | None) -> float | None:
    """Return the number of a measurement, if it has one."""
    if isinstance(measurement, Measured):
        return measurement.median
    return measurement.value if isinstance(measurement, Modelled) else None


def _format_spread(measurement: Measured) -> Text:
    count = len(measurement.readings)
    if count == 1:
        return get_text("figure.once")
    low, high = (format_quantity(of(measurement.readings), measurement.unit) for of in (min, max))
    figure_of, unit = low.split(" ", 1)
    shown = figure_of if high.endswith(f" {unit}") else low
    return get_text("figure.readings", count=Count(count), low=shown, high=high)


def format_quantity(value: float, unit: str) -> str:
    """Return *value* with its unit and three significant digits."""
    if unit == "B":
        return format_bytes(value)
    if unit in ("s", "s/token") and abs(value) < 1:
        return f"{format_number(value * 1000)} {unit.replace('s', 'ms', 1)}"
    return f"{format_number(value)} {unit.replace('tokens/s', 'tok/s')}"


def format_bytes(count: float) -> str:
    """Return a number of bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{format_number(count)} {unit}"
        count /= 1024
    return f"{format_number(count)} TiB"


def format_number(value: float) -> str:
    """Return a number with three significant digits, or as a whole number from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def format_points(value: float) -> str:
    """Return a score as text."""
    return format_number_text(value)


def format_factor(ratio: float) -> Text:
    """Return a ratio with two significant digits, or three if it is close to one."""
    shown = f"{ratio:.2f}" if ratio < 1.1 else f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"
    return Text(f"{shown}배", f"{shown}×")
