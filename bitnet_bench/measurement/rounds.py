"""Alternate candidates within a budget; a disturbed round is repeated while there is time to spare."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from bitnet_bench.errors import BenchError
from bitnet_bench.measurement.budget import Countdown, OutOfBudgetError, format_duration
from bitnet_bench.measurement.readings import Round, find_disturbances, find_disturbed_rounds, is_narrow
from bitnet_bench.measurement.round_plan import (
    Allotment,
    RoundPlan,
    allot_shares,
    count_fitting_rounds,
    count_starting_rounds,
    plan_rounds,
)
from bitnet_bench.measurement.scenario import Scenario

Answer = TypeVar("Answer")
RETRY_PAUSES_S = (1.0, 3.0)
"""Seconds to wait before a disturbed round is repeated: the load of other machines may pass."""
MAX_RUN_RATIO = 1.5
"""Factor by which a single round may exceed its forecast before it is ended, so that the others keep their time."""


class RoundRunner(Protocol):
    """A candidate that runs rounds. A request that takes longer than *within_s* ends its process: OutOfBudgetError."""

    name: str

    def probe(self, batch: int, within_s: float) -> float:
        """Return how many seconds one run will take, estimated from shorter ones."""

    def warm_up(self, batch: int, within_s: float) -> Round:
        """Run the warm-up round, which includes the peak of memory over a process that has only imported."""

    def round(self, batch: int, within_s: float) -> Round:
        """Run one round; BenchError if the process crashes, hangs, or sends an invalid answer."""


@dataclass
class RoundResults:
    """The results of one candidate's rounds, by batch."""

    rounds: dict[int, list[Round]] = field(default_factory=dict)
    peak_bytes: dict[int, int] = field(default_factory=dict)
    disturbances: dict[int, dict[int, list[str]]] = field(default_factory=dict)
    """Reasons why rounds stayed disturbed, by their index."""
    once: dict[int, str] = field(default_factory=dict)
    """Reason why there is only one round."""
    left_out: dict[int, str] = field(default_factory=dict)
    """Reason why the budget allowed no round."""
    cold: set[int] = field(default_factory=set)
    """Batches whose only round is the warm-up."""
    ended: str | None = None
    """Reason why the process was ended without a failure."""
    error: BenchError | None = None
    card_bytes: dict[int, int | None] = field(default_factory=dict)
    """Bytes of the GPU's memory taken since before the candidate was loaded; None on the CPU."""

    @property
    def is_running(self) -> bool:
        """Return whether the process can run more rounds."""
        return self.error is None and self.ended is None


def alternate_rounds(
    contenders: Sequence[RoundRunner],
    scenario: Scenario,
    countdown: Countdown,
    sleep: Callable[[float], None] = time.sleep,
) -> list[RoundResults]:
    """Return the rounds of every candidate; if one fails, the others continue without it.

    Disturbances are determined at the end, when the quietest round is known.
    """
    found = [RoundResults() for _ in contenders]
    pairs = list(zip(contenders, found, strict=True))
    for index, batch in enumerate(scenario.each_batch):
        _Alternation(pairs, scenario, countdown, sleep, batch, scenario.each_batch[index + 1 :]).measure()
    return found


@dataclass
class _Alternation:
    """The rounds of all candidates at one batch; candidates are identified by their index."""

    pairs: list[tuple[RoundRunner, RoundResults]]
    scenario: Scenario
    countdown: Countdown
    sleep: Callable[[float], None]
    batch: int
    later_batches: Sequence[int]
    run_s: dict[int, float] = field(default_factory=dict)
    """Seconds of one run: first as the probe estimates, then as the last run took."""

    def measure(self) -> None:
        """Probe, warm up, and alternate the candidates until the rounds suffice."""
        budget = self.countdown.budget
        self.began_s = budget.elapsed_s
        self.ends_s = self.began_s + max(0.0, budget.left_s) / (1 + len(self.later_batches))
        self._probe_all()
        chosen = self._choose_runners()
        first = {i: reading for i in chosen if (reading := self._warm_up(i, chosen)) is not None}
        self._take_turns(self._select_with_time(list(first)))
        for index, reading in first.items():
            turns = self.pairs[index][1]
            if not turns.rounds.get(self.batch) and turns.error is None:
                turns.rounds[self.batch] = [reading]
                turns.cold.add(self.batch)
                if why := turns.left_out.pop(self.batch, None):
                    turns.once[self.batch] = why
        for _, turns in self.pairs:
            turns.disturbances[self.batch] = find_disturbed_rounds(
                turns.rounds.get(self.batch, []), self._list_rounds()
            )

    @property
    def _left_s(self) -> float:
        """Return the seconds in which rounds of this batch may still begin."""
        return self.ends_s - self.countdown.budget.elapsed_s

    def _filter_running(self, indices: Sequence[int]) -> list[int]:
        return [i for i in indices if self.pairs[i][1].is_running]

    def _probe_all(self) -> None:
        for _, turns in self.pairs:
            if turns.ended:
                turns.left_out[self.batch] = turns.ended
        running = self._filter_running(range(len(self.pairs)))
        for waiting, index in zip(range(len(running), 0, -1), running, strict=True):
            contender, _ = self.pairs[index]
            self.countdown.show_progress(f"probe {contender.name}")
            share = max(0.0, self._left_s) / waiting
            seconds = self._ask(index, lambda one, share=share: one.probe(self.batch, share))  # type: ignore[misc]
            if seconds is not None:
                self.run_s[index] = seconds

    def _choose_runners(self) -> list[int]:
        """Return those that can run once in their shares, first those that can also make the fewest rounds."""
        allotted = allot_shares(self.run_s, self._left_s, 1 + self.scenario.fewest_rounds)
        quickest = min(self.run_s, key=lambda index: self.run_s[index], default=None)
        for index, one in allotted.items():
            if one.turn == "never" and index != quickest:  # its time would be lost, and a probe may be wrong
                self.pairs[index][1].left_out[self.batch] = (
                    f"One run would take about {format_duration(self.run_s[index])}, and its share of the "
                    f"{self.countdown.budget.describe()} is {format_duration(one.share_s)}."
                )
        chosen = [i for i, one in allotted.items() if one.turn != "never" or i == quickest]
        return sorted(chosen, key=lambda index: (allotted[index].turn != "often", index))

    def _explain_once(self, index: int, allotment: Allotment) -> str:
        return (
            f"{self.scenario.fewest_rounds} rounds of {format_duration(self.run_s[index])} exceed its share of the "
            f"{self.countdown.budget.describe()}, {format_duration(allotment.share_s)}."
        )

    def _warm_up(self, index: int, chosen: Sequence[int]) -> Round | None:
        """Run the warm-up of a candidate; it may use the time that the waiting ones do not need for theirs."""
        contender, turns = self.pairs[index]
        budget = self.countdown.budget
        waiting_s = self._turn_s(chosen[chosen.index(index) + 1 :])
        within = min(max(MAX_RUN_RATIO * self.run_s[index], budget.hard_left_s - waiting_s), budget.hard_left_s)
        self.countdown.show_progress(f"warm up {contender.name}")
        began = budget.elapsed_s
        reading = self._ask(index, lambda one: one.warm_up(self.batch, within))
        if reading is not None:
            assert reading.peak_bytes is not None
            turns.peak_bytes[self.batch] = reading.peak_bytes
            turns.card_bytes[self.batch] = reading.card_bytes
            self.run_s[index] = budget.elapsed_s - began
        return reading

    def _select_with_time(self, running: Sequence[int]) -> list[int]:
        """Return those that can make the fewest rounds in their shares; the others have only their warm-up."""
        fewest, left = self.scenario.fewest_rounds, self._left_s
        able = {i: self.run_s[i] for i in running if fewest * self.run_s[i] <= left}
        # those that cannot use a share leave it to the others
        allotted = {i: Allotment("once", left) for i in running} | allot_shares(able, left, fewest)
        for index, one in allotted.items():
            if one.turn != "often":
                self.pairs[index][1].once[self.batch] = self._explain_once(index, one)
        return sorted(index for index, one in allotted.items() if one.turn == "often")

    def _take_turns(self, often: list[int]) -> None:
        """Run as many turns of *often* as fit, or fewer if the intervals are narrow at the earliest end."""
        turn_s, done, spent = self._turn_s(often), 0, 0.0
        fewest = self.scenario.fewest_rounds
        plan = plan_rounds(self.scenario.rounds, fewest, turn_s, self._left_s)
        while often and done < plan.most:
            narrow = not done or self._has_narrow_intervals(often, min(done, fewest))
            if done == plan.earliest and narrow:
                break
            mean_s = spent / done if done else turn_s
            beginning = count_starting_rounds(self._turn_s(often), mean_s, self._left_s)
            # the last rounds are not repeated: there is no time for it
            longest = max(self._left_s, self._turn_s(often))
            self._update_countdown(min(min(plan.expect_rounds(done, narrow), beginning) * mean_s, longest))
            spent += self._run_turn(done + 1, often)
            done, often = done + 1, self._filter_running(often)
            fitting = count_fitting_rounds(self._turn_s(often), self._left_s)
            plan = RoundPlan(plan.earliest, min(self.scenario.rounds, done + fitting))
        self._update_countdown(0.0)

    def _turn_s(self, often: Sequence[int]) -> float:
        """Return the seconds of a turn of *often* without repetitions."""
        return sum(self.run_s[i] for i in often)

    def _run_turn(self, number: int, often: Sequence[int]) -> float:
        """Run one round of each of *often*, and return the seconds that it took."""
        budget = self.countdown.budget
        began = budget.elapsed_s
        owed = max(0, self.scenario.fewest_rounds - number) * self._turn_s(often)
        for place, index in enumerate(often):
            contender, turns = self.pairs[index]
            if number > 1 and self.run_s[index] > budget.hard_left_s:
                continue  # one round less is better than a process that is ended during it
            self.countdown.show_progress(f"round {number}, {contender.name}")
            spare = self._left_s - owed - self._turn_s(often[place:])
            reading = self._ask(index, lambda one, i=index, spare=spare: self._run_quiet_round(one, i, spare))  # type: ignore[misc]
            if reading is not None:
                turns.rounds.setdefault(self.batch, []).append(reading)
        return budget.elapsed_s - began

    def _run_quiet_round(self, contender: RoundRunner, index: int, spare_s: float) -> Round:
        """Return a round; repeat a disturbed one after a pause, as long as *spare_s* allows."""
        budget = self.countdown.budget
        began = budget.elapsed_s
        reading = contender.round(self.batch, budget.hard_left_s)
        self.run_s[index] = budget.elapsed_s - began
        for pause in RETRY_PAUSES_S:
            spare_s -= pause + self.run_s[index]
            if spare_s < 0 or not find_disturbances(reading, self._list_rounds()):
                break
            self.sleep(pause)
            reading = contender.round(self.batch, budget.hard_left_s)
        return reading

    def _ask(self, index: int, request: Callable[[RoundRunner], Answer]) -> Answer | None:
        """Return the candidate's answer; None if it failed, or was ended because its time was over."""
        contender, turns = self.pairs[index]
        try:
            return request(contender)
        except OutOfBudgetError as error:
            turns.ended = error.problem
            if not turns.rounds.get(self.batch):
                turns.left_out[self.batch] = error.problem
                turns.once.pop(self.batch, None)
        except BenchError as error:
            turns.error = error
        return None

    def _update_countdown(self, left_s: float) -> None:
        """Update the countdown with the time left for this batch, and for later ones, assuming equal time per row."""
        budget = self.countdown.budget
        whole = budget.elapsed_s - self.began_s + left_s
        later = sum(whole * batch / self.batch for batch in self.later_batches)
        self.countdown.set_expected(min(left_s + later, max(left_s, budget.left_s)))
        self.countdown.show_progress()

    def _list_rounds(self) -> list[Round]:
        return [reading for _, turns in self.pairs for reading in turns.rounds.get(self.batch, [])]

    def _has_narrow_intervals(self, often: Sequence[int], least: int) -> bool:
        """Return whether the undisturbed rounds of each of *often*, at least *least*, give narrow intervals."""
        seen = self._list_rounds()
        for index in often:
            rounds = self.pairs[index][1].rounds.get(self.batch, [])
            why = find_disturbed_rounds(rounds, seen)
            quiet = [reading for i, reading in enumerate(rounds) if i not in why]
            if len(quiet) < least or not _has_narrow_times(quiet, self.scenario.tolerance):
                return False
        return True


def _has_narrow_times(rounds: Sequence[Round], tolerance: float) -> bool:
    return all(is_narrow(times, tolerance) for times in ([r.prefill_s for r in rounds], [r.decode_s for r in rounds]))
