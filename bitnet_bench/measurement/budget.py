"""Keep a measurement within the time that was given for it."""

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
"""Of the budget: what has begun in time may end so much later."""
CLOSING_SHARE, MAX_CLOSING_S = 0.03, 2.0
"""Kept for what follows the last round: ending processes, and how fast this machine reads."""
EXPECTED_CLOSING_S = 1.0
"""Of that, what it takes as a rule."""
LONGER_BUDGET_HINT = "Give a longer budget to measure it."


class OutOfBudgetError(BenchError):
    """One was not done when its share of the budget was used up: it is left out, and nothing is wrong with it."""

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
    """Return a duration as a reader wants it: `0.4 s`, `25 s`, `3 min`, `4.6 h`."""
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
        """What has been used."""
        return self.clock() - self.began_s

    @property
    def closing_s(self) -> float:
        """What is kept for the end."""
        return min(MAX_CLOSING_S, CLOSING_SHARE * self.seconds)

    @property
    def left_s(self) -> float:
        """What is left to begin work in; negative when it is used up."""
        return self.seconds - self.closing_s - self.elapsed_s

    @property
    def hard_left_s(self) -> float:
        """How long work that has begun may go on: the grace is included."""
        return max(0.0, self.left_s + GRACE_SHARE * self.seconds)

    def left_until_s(self, share: float) -> float:
        """Return what is left until *share* of the budget is used."""
        return min(self.left_s, share * self.seconds - self.elapsed_s)

    def describe(self) -> str:
        """Return the budget for a sentence."""
        return f"budget of {format_duration(self.seconds)}"


@dataclass
class Countdown:
    """Tells a progress display how much of the time is over, in seconds of the budget."""

    budget: Budget
    progress: Progress
    expected_s: float = field(init=False)
    """When the measurement is expected to end, in seconds since it began."""
    note: str = ""

    def __post_init__(self) -> None:
        self.expected_s = self.budget.seconds

    def set_expected(self, left_s: float) -> None:
        """Set what is expected to be left, without the closing."""
        budget = self.budget
        self.expected_s = budget.elapsed_s + max(0.0, left_s) + min(EXPECTED_CLOSING_S, budget.closing_s)

    def show_progress(self, note: str | None = None) -> None:
        """Show the time that is over out of the time that is expected; *note* replaces what is being done."""
        self.note = self.note if note is None else note
        elapsed = int(self.budget.elapsed_s)
        self.progress(elapsed, max(round(self.expected_s), elapsed + 1), self.note)

    def finish(self) -> None:
        """Show that it is over."""
        elapsed = max(1, round(self.budget.elapsed_s))
        self.progress(elapsed, elapsed, "")
