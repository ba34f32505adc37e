"""Let contestants take turns until their intervals are narrow or the time is up; a disturbed round is tried again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import Field

from bitnet_bench.errors import BenchError
from bitnet_bench.measure.scenario import Scenario
from bitnet_bench.ports import Progress
from bitnet_bench.records import MOST_FOREIGN, Measurement, Value

MOST_STOLEN = 0.02
"""Likewise of what the host gave to other machines. It stops our own threads; the kernel counts it in 10 ms."""
SLOWEST = 0.9
"""A round at less than this share of the frequency or the pace that others ran at was slowed."""
PAUSES_S = (1.0, 3.0)
"""Before a disturbed round is made again: neighbours come and go."""
COVERAGE = 0.95


class Round(Value):
    """The readings of one round of one contestant; times are means over its repetitions."""

    prefill_s: float = Field(gt=0)
    decode_s: float = Field(gt=0)
    """Of all new tokens after the first."""
    token_s: tuple[float, ...] = Field(min_length=1)
    """Of each new token after the first, in one repetition."""
    prompt_tokens: int = Field(gt=0)
    new_tokens: int = Field(gt=1)
    repetitions: int = Field(gt=0)
    metered_s: float = Field(gt=0)
    """How long the meter ran."""
    energy: Measurement
    """Over all repetitions."""
    foreign_share: float = Field(ge=0, le=1)
    stolen_share: float | None = Field(default=None, ge=0, le=1)
    """Of the cores' time, by other machines of the host; None where the kernel does not count it."""
    pace_s: float | None = Field(default=None, gt=0)
    """Of a fixed piece of work on as many threads, at the slower end of the round (`machine.pace`)."""
    frequency_hz: float | None = None
    throttled: int | None = None
    """Thermal events; None where the kernel does not count them."""
    swapped_bytes: int | None = None


class Contender(Protocol):
    """One that takes turns."""

    name: str

    def warm_up(self, batch: int) -> int:
        """Run once, untimed, and return the peak of memory in bytes over a process that has only imported."""

    def round(self, batch: int) -> Round:
        """Run one round; BenchError if it crashes, hangs, or answers what cannot be."""


@dataclass
class Turns:
    """What one contestant's rounds gave, by batch."""

    rounds: dict[int, list[Round]] = field(default_factory=dict)
    peak_bytes: dict[int, int] = field(default_factory=dict)
    disturbances: dict[int, dict[int, list[str]]] = field(default_factory=dict)
    """Why rounds stayed disturbed, by their index."""
    error: BenchError | None = None


def alternate(
    contenders: Sequence[Contender],
    scenario: Scenario,
    clock: Callable[[], float],
    progress: Progress,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Turns]:
    """Return the turns of every contender; one that fails leaves the others to go on without it.

    A disturbed round is made again after a pause, as long as there is time. What stays disturbed is said in the end,
    when the quietest round is known.
    """
    found = [Turns() for _ in contenders]
    running = _Alternation(list(zip(contenders, found, strict=True)), scenario, clock, progress, sleep)
    for batch in scenario.each_batch:
        running.measure(batch)
    return found


@dataclass
class _Alternation:
    """Contenders with what their rounds gave so far."""

    pairs: list[tuple[Contender, Turns]]
    scenario: Scenario
    clock: Callable[[], float]
    progress: Progress
    sleep: Callable[[float], None]
    done: int = 0

    def measure(self, batch: int) -> None:
        """Warm every contender up, let them take turns until it is enough, and say which rounds stayed disturbed."""
        for contender, turns in self._running():
            with _kept(turns):
                turns.peak_bytes[batch] = contender.warm_up(batch)
        self.ends = self.clock() + self.scenario.seconds
        for number in range(1, self.scenario.rounds + 1):
            self._round(number, batch)
            over = self.clock() >= self.ends
            if number >= self.scenario.least_rounds and (over or self._enough(batch)):
                break
        for _, turns in self.pairs:
            turns.disturbances[batch] = _disturbed(turns.rounds.get(batch, []), self._seen(batch))

    def _round(self, number: int, batch: int) -> None:
        total = len(self.pairs) * self.scenario.rounds * len(self.scenario.each_batch)
        for contender, turns in self._running():
            with _kept(turns):
                turns.rounds.setdefault(batch, []).append(self._turn(contender, batch))
            self.done += 1
            self.progress(self.done, total, f"round {number}, {contender.name}")

    def _turn(self, contender: Contender, batch: int) -> Round:
        reading = contender.round(batch)
        for seconds in PAUSES_S:
            if not disturbances(reading, self._seen(batch)):
                break
            if self.clock() < self.ends:
                self.sleep(seconds)
            reading = contender.round(batch)
        return reading

    def _running(self) -> Iterator[tuple[Contender, Turns]]:
        return ((contender, turns) for contender, turns in self.pairs if turns.error is None)

    def _seen(self, batch: int) -> list[Round]:
        return [reading for _, turns in self.pairs for reading in turns.rounds.get(batch, [])]

    def _enough(self, batch: int) -> bool:
        """Return whether the undisturbed rounds of every contender give narrow intervals."""
        seen = self._seen(batch)
        for rounds in (turns.rounds[batch] for _, turns in self._running()):
            why = _disturbed(rounds, seen)
            quiet = [reading for i, reading in enumerate(rounds) if i not in why]
            times = [r.prefill_s for r in quiet], [r.decode_s for r in quiet]
            if len(quiet) < self.scenario.least_rounds:
                return False
            if not all(is_narrow(t, self.scenario.tolerance) for t in times):
                return False
        return True


@contextmanager
def _kept(turns: Turns) -> Iterator[None]:
    """Keep the error of a contender that fails."""
    try:
        yield
    except BenchError as error:
        turns.error = error


def _disturbed(rounds: Sequence[Round], seen: Sequence[Round]) -> dict[int, list[str]]:
    why = {i: disturbances(reading, seen) for i, reading in enumerate(rounds)}
    return {i: reasons for i, reasons in why.items() if reasons}


def disturbances(reading: Round, seen: Sequence[Round]) -> list[str]:
    """Say what disturbed a round: other processes or machines, heat, swapping, or less speed than in the rounds *seen*.

    Neither a machine's clock nor its pace depends on who is measured, so that *seen* are rounds of all contenders.
    """
    found = []
    if reading.foreign_share > MOST_FOREIGN:
        found.append(f"other processes used {reading.foreign_share:.0%} of the cores")
    if reading.stolen_share and reading.stolen_share > MOST_STOLEN:
        found.append(f"other machines of the host took {reading.stolen_share:.0%} of the cores")
    if reading.throttled:
        found.append(f"{reading.throttled} thermal events slowed the processor")
    if reading.swapped_bytes:
        found.append(f"{reading.swapped_bytes / 2**20:.1f} MiB were swapped")
    fastest = max((r.frequency_hz for r in seen if r.frequency_hz), default=None)
    if fastest and reading.frequency_hz and reading.frequency_hz < SLOWEST * fastest:
        found.append(f"the cores ran at {reading.frequency_hz / 1e9:.2f} GHz instead of {fastest / 1e9:.2f}")
    quickest = min((r.pace_s for r in seen if r.pace_s), default=None)
    if quickest and reading.pace_s and reading.pace_s > quickest / SLOWEST:
        found.append(f"the cores did {quickest / reading.pace_s:.0%} of the work of the quietest round")
    return found


def is_narrow(readings: Sequence[float], tolerance: float) -> bool:
    """Return whether the interval of the median is no wider than *tolerance* times the median."""
    low, high = median_interval(readings)
    return high - low <= tolerance * sorted(readings)[len(readings) // 2]


def median_interval(readings: Sequence[float]) -> tuple[float, float]:
    """Return the order statistics that hold the median with 95 %; of fewer than six readings the least and the most.

    Each reading lies below the median with one half, so that the k-th least is above it with P(Binomial(n, 1/2) < k).
    """
    ordered, n = sorted(readings), len(readings)
    outside, ways, k = 0.0, 1, 0
    while outside + ways / 2**n <= (1 - COVERAGE) / 2:
        outside += ways / 2**n
        ways, k = ways * (n - k) // (k + 1), k + 1
    least = max(k - 1, 0)
    return ordered[least], ordered[n - 1 - least]
