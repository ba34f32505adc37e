"""Refuse joules that the device cannot have used."""

from __future__ import annotations

from bitnet_bench.runs.records import Measured, Unavailable

MAX_LIMIT_RATIO = 1.5
"""Factor by which a reading may exceed the power limit: limits are means over seconds, which a short interval may
exceed."""


def make_measured_joules(
    joules: float, seconds: float, limit_w: float | None, method: str, most_w: float = 5000.0
) -> Measured | Unavailable:
    """Return *joules* as measured over *seconds*, or why they cannot be: not positive, or beyond the device's limit.

    *limit_w* None: the device reports no limit, and *most_w*, which no single machine draws, takes its place.
    """
    most = MAX_LIMIT_RATIO * limit_w if limit_w else most_w
    if seconds <= 0:
        return Unavailable(reason="the meter's interval has no length")
    power = joules / seconds
    if not 0 < power <= most:
        named = f"the device's limit of {limit_w:.0f} W" if limit_w else f"the {most_w:.0f} W of any machine"
        return Unavailable(
            reason=f"the counter's {power:.1f} W are not within {named}: it stood still, wrapped round, or is broken"
        )
    return Measured(unit="J", method=method, readings=(joules,))
