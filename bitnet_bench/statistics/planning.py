"""Plan how many more examples a comparison needs before it can be decided."""

from __future__ import annotations

import math

from bitnet_bench.statistics.standard_errors import NORMAL_95

NORMAL_90 = 1.6448536269514722
"""Quantile of the one-sided tests at 5 %."""
NORMAL_POWER = 0.8416212335729143
"""Quantile of a chance of 80 %."""


def count_examples_to_decide(difference: float, stderr: float, n: int, margin: float) -> int | None:
    """Return how many more examples than *n* decide with a chance of 80 %, if difference and spread stay as they are.

    The difference is decided when it is significant at 5 %, or equal within *margin* by two one-sided tests at 5 %,
    whichever takes fewer examples. None if no number of examples is enough: neither a difference nor a margin.
    """
    needed = []
    if difference:
        needed.append((NORMAL_95 + NORMAL_POWER) / abs(difference))
    if abs(difference) < margin:
        needed.append((NORMAL_90 + NORMAL_POWER) / (margin - abs(difference)))
    if not needed or not stderr:
        return None
    return max(1, math.ceil(n * (min(needed) * stderr) ** 2) - n)
