"""Decide when the state of a run is due to be saved."""

from __future__ import annotations

from collections.abc import Callable

from bitnet_bench.processes import is_stop_requested


class SaveTimer:
    """Timer by which a state is due *minutes* after the last one; with 0 minutes only before a requested stop."""

    def __init__(self, minutes: float, clock: Callable[[], float]) -> None:
        self._interval_s, self._clock = 60 * minutes, clock
        self._saved_at = clock()

    def restart(self) -> None:
        """Start counting from now, because a state was saved or training begins."""
        self._saved_at = self._clock()

    def is_due(self) -> bool:
        """Return whether the time has passed, or the process is to save and end."""
        has_passed = self._interval_s > 0 and self._clock() - self._saved_at >= self._interval_s
        return is_stop_requested() or has_passed
