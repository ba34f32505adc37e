"""Decide when the state of a run is due to be saved."""

from __future__ import annotations

from collections.abc import Callable


class SaveTimer:
    """Timer by which a state is due *minutes* after the last one; never with 0 minutes."""

    def __init__(self, minutes: float, clock: Callable[[], float]) -> None:
        self._interval_s, self._clock = 60 * minutes, clock
        self._saved_at = clock()

    def restart(self) -> None:
        """Start counting from now, because a state was saved or training begins."""
        self._saved_at = self._clock()

    def is_due(self) -> bool:
        """Return whether the time has passed."""
        return self._interval_s > 0 and self._clock() - self._saved_at >= self._interval_s
