"""Keep a measurement within its time budget."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bitnet_bench.errors import BenchError, UsageError

if TYPE_CHECKING:
    from bitnet_bench.protocols import Progress

DEFAULT_BUDGET = "3m"
SECONDS_PER_UNIT = {"s": 1.0, "m": 60.0, "h": 3600.0}
BUDGET_PATTERN = re.compile(r"(\d+(?:\.\d+)?) ?([smh])")
GRACE_SHARE = 0.1
"""Share of the budget by which work that began in time may exceed it."""
CLOSING_SHARE, MAX_CLOSING_S = 0.03, 2.0
"""Share of the budget, and its maximum in seconds, that is reserved for the work after the last round: ending processes
and measuring how fast this machine reads."""
EXPECTED_CLOSING_S = 1.0
"""Seconds that the work after the last round usually takes."""
LONGER_BUDGET_HINT = "Give a longer budget to measure it."


class OutOfBudgetError(BenchError):
    """A candidate was not done when its share of the budget was used up: it is left out, which is not a failure."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem, LONGER_BUDGET_HINT)


def parse_budget(text: str) -> float:
    """Return the seconds of a budget such as `90s`, `3m` or `1h`; UsageError if it has another form."""
    found = BUDGET_PATTERN.fullmatch(text.strip())
    seconds = float(found[1]) * SECONDS_PER_UNIT[found[2]] if found else 0.0
    if seconds <= 0:
        raise UsageError(f"{text!r} is not a budget.", "Give a number with s, m or h, such as 90s, 3m or 1h.")
    return seconds


def format_duration(seconds: float) -> str:
    """Return a duration for display, such as `0.4 s`, `25 s`, `3 min` or `4.6 h`."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.2g} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


@dataclass(frozen=True)
class Budget:
    """The seconds that a whole measurement may take, counted from *began_s* on *clock*."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    began_s: float = 0.0

    @classmethod
    def starting_now(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> Budget:
        """Return a budget that begins at this moment."""
        return cls(seconds, clock, clock())

    @property
    def elapsed_s(self) -> float:
        """Return the seconds that have been used."""
        return self.clock() - self.began_s

    @property
    def closing_s(self) -> float:
        """Return the seconds that are reserved for the work after the last round."""
        return min(MAX_CLOSING_S, CLOSING_SHARE * self.seconds)

    @property
    def left_s(self) -> float:
        """Return the seconds in which work may still begin; negative when the budget is used up."""
        return self.seconds - self.closing_s - self.elapsed_s

    @property
    def hard_left_s(self) -> float:
        """Return how long work that has begun may continue, the grace included."""
        return max(0.0, self.left_s + GRACE_SHARE * self.seconds)

    def left_until_s(self, share: float) -> float:
        """Return the seconds until *share* of the budget is used."""
        return min(self.left_s, share * self.seconds - self.elapsed_s)

    def describe(self) -> str:
        """Return the budget as words for a sentence."""
        return f"budget of {format_duration(self.seconds)}"


@dataclass
class Countdown:
    """Tells a progress display how much of the budget has passed, in seconds."""

    budget: Budget
    progress: Progress
    expected_s: float = field(init=False)
    """Seconds from the beginning at which the measurement is expected to end."""
    note: str = ""

    def __post_init__(self) -> None:
        self.expected_s = self.budget.seconds

    def set_expected(self, left_s: float) -> None:
        """Set the seconds that are expected to be left, without the work after the last round."""
        budget = self.budget
        self.expected_s = budget.elapsed_s + max(0.0, left_s) + min(EXPECTED_CLOSING_S, budget.closing_s)

    def show_progress(self, note: str | None = None) -> None:
        """Show the elapsed seconds out of the expected ones; *note* replaces the current activity."""
        self.note = self.note if note is None else note
        elapsed = int(self.budget.elapsed_s)
        self.progress(elapsed, max(round(self.expected_s), elapsed + 1), self.note)

    def finish(self) -> None:
        """Show that the measurement is over."""
        elapsed = max(1, round(self.budget.elapsed_s))
        self.progress(elapsed, elapsed, "")
