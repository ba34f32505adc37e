"""Decide which candidate runs how often in the time that is left, and how many rounds there will be."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

Key = TypeVar("Key")
TurnKind = Literal["often", "once", "never"]
"""The part that a candidate takes: rounds that alternate, a single run, or none."""
MAX_ERROR_FACTOR = 1.5
"""Factor by which the expected remaining time may be wrong."""
MIN_ROUND_S = 1e-6
"""Least seconds that a round is assumed to take."""
MIN_TRUSTED_ROUNDS = 3
"""Number of rounds after which narrow intervals are expected to stay so.

Before, rounds may still end early or late: the earliest end is so late that the expectation is never wrong by more than
`MAX_ERROR_FACTOR`. Of ten rounds it is the seventh.
"""


@dataclass(frozen=True)
class Allotment:
    """The part of one candidate in the time that is left."""

    turn: TurnKind
    share_s: float


def allot_shares(run_s: Mapping[Key, float], left_s: float, runs: int) -> dict[Key, Allotment]:
    """Return what each candidate gets, given the seconds that one run of each takes.

    What a quick one leaves of its share goes to slower ones (max-min fairness). One that cannot make *runs* in its
    share makes one. While the quickest that waits cannot make one, the slowest makes none and leaves its share to the
    others, so that a slower one never gets more than a quicker one.
    """
    allotted: dict[Key, Allotment] = {}
    waiting = deque(_sort_by_run_time(run_s))
    most = runs
    while waiting:
        share = max(0.0, left_s) / len(waiting)
        if waiting[0][1] > share:
            allotted[waiting.pop()[0]] = Allotment("never", share)
            continue
        key, seconds = waiting.popleft()
        most = most if most * seconds <= share else 1
        allotted[key] = Allotment("often" if most == runs else "once", share)
        left_s -= seconds * most
    return allotted


def _sort_by_run_time(run_s: Mapping[Key, float]) -> list[tuple[Key, float]]:
    return sorted(run_s.items(), key=lambda item: item[1])


@dataclass(frozen=True)
class RoundPlan:
    """The number of rounds: *most*, or *earliest* if the intervals are narrow by then."""

    earliest: int
    most: int

    def expect_rounds(self, done: int, narrow: bool) -> float:
        """Return how many more rounds are expected.

        Few readings span their interval, which can only grow then: once wide it stays wide. Before the first round
        nothing is known, and after two little: the result is then wrong by at most `MAX_ERROR_FACTOR` until the next
        round is over, whether the rounds end early or late.
        """
        late, early = max(0, self.most - done), self.earliest - done
        if early <= 0 or not narrow:
            return late
        if done >= MIN_TRUSTED_ROUNDS or early == 1:
            return early
        lowest, highest = 1 + (late - 1) / MAX_ERROR_FACTOR, 1 + (early - 1) * MAX_ERROR_FACTOR
        return (lowest + highest) / 2


def plan_rounds(most: int, least: int, round_s: float, left_s: float) -> RoundPlan:
    """Return the plan before the first round, if a round takes *round_s* and *left_s* is left."""
    planned = max(1, min(most, count_fitting_rounds(round_s, left_s)))
    earliest = math.ceil(MIN_TRUSTED_ROUNDS + (planned - MIN_TRUSTED_ROUNDS) / MAX_ERROR_FACTOR**2)
    return RoundPlan(min(planned, max(least, earliest)), planned)


def count_fitting_rounds(round_s: float, left_s: float) -> int:
    """Return how many rounds of *round_s* fit into *left_s*."""
    return int(max(0.0, left_s) / max(round_s, MIN_ROUND_S))


def count_starting_rounds(round_s: float, mean_s: float, left_s: float) -> int:
    """Return how many rounds will begin: each needs *round_s* left, and takes *mean_s* with its repetitions."""
    return 0 if left_s < round_s else 1 + int((left_s - round_s) / max(mean_s, MIN_ROUND_S))
