"""Combine several comparisons: adjusted p-values for each, and the standard error of their mean."""

from __future__ import annotations

import math
from collections.abc import Sequence


def holm(ps: Sequence[float]) -> list[float]:
    """Return p-values adjusted so that one false claim among all is as unlikely as in a single test (Holm 1979)."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    adjusted, largest = [1.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


def combine_stderrs(errors: Sequence[float | None]) -> float | None:
    """Return the standard error of a mean of independent estimates, sqrt(sum e^2) / k; None if one is missing."""
    known = [error for error in errors if error is not None]
    if not known or len(known) < len(errors):
        return None
    return math.sqrt(sum(error**2 for error in known)) / len(known)
