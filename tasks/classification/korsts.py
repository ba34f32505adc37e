"""KorSTS: how similar two sentences are, from 0 to 5, asked as a choice of six numbers.

The answer that is scored is the mean of the six under their probabilities, so it is not bound to whole numbers.
"""

from typing import Any

VALUES = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)


def value(doc: dict[str, Any]) -> float:
    """Return the gold similarity, 0..5."""
    return float(doc["score"])


def target(doc: dict[str, Any]) -> int:
    """Return the choice nearest to the gold similarity, halves up: what training teaches."""
    return int(value(doc) + 0.5)
