"""Format a score with its uncertainty, for the terminal, model cards and reports."""

from __future__ import annotations

from bitnet_bench.wording import Text, plain_text

NORMAL_95 = 1.959963984540054


def format_number_text(value: float, digits: int = 1) -> str:
    """Return a number with *digits* decimals and a typographic minus."""
    return f"{value:.{digits}f}".replace("-", "−")


def format_limits(limits: tuple[float, float], digits: int = 1) -> Text:
    """Return two limits as a range."""
    low, high = (format_number_text(limit, digits) for limit in limits)
    return Text(f"{low}~{high}", f"{low} to {high}")


def format_estimate(value: float, stderr: float | None, interval: tuple[float, float] | None, digits: int = 1) -> Text:
    """Return a value with ± 1.96 standard errors, with its interval if they round to 0, or alone if it has neither.

    "100.0 ± 0.0" would claim certainty; where all examples came out alike, the interval is Wilson's.
    """
    shown = plain_text(format_number_text(value, digits))
    half = 0.0 if stderr is None else NORMAL_95 * stderr
    if round(half, digits) > 0:
        return shown + plain_text(f" ±{format_number_text(half, digits)}")
    return shown if interval is None else shown + plain_text(" (") + format_limits(interval, digits) + plain_text(")")
