"""Let contestants take turns until their intervals are narrow or the time is up; a disturbed round is tried again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import Field

from bitnet_bench.errors import BenchError
from bitnet_bench.measure.scenario import Scenario
from bitnet_bench.ports import Progress
from bitnet_bench.records import Measurement, Value

MOST_FOREIGN = 0.1
"""Above this share of the cores other processes have changed a timing."""
SLOWEST = 0.9
"""A round at less than this share of the frequency that others ran at was slowed."""
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
    disturbances: dict[int, list[str]] = field(default_factory=dict)
    error: BenchError | None = None


def alternate(
    contenders: Sequence[Contender], scenario: Scenario, clock: Callable[[], float], progress: Progress
) -> list[Turns]:
    """Return the turns of every contender; one that fails leaves the others to go on without it."""
    found = [Turns() for _ in contenders]
    total = len(contenders) * scenario.rounds * len(scenario.each_batch)
    done = 0
    for batch in scenario.each_batch:
        for contender, turns in zip(contenders, found, strict=True):
            if turns.error is None:
                with _kept(turns):
                    turns.peak_bytes[batch] = contender.warm_up(batch)
        began = clock()
        for number in range(1, scenario.rounds + 1):
            for contender, turns in zip(contenders, found, strict=True):
                if turns.error is None:
                    with _kept(turns):
                        _turn(contender, turns, batch, number, scenario.repeats)
                done += 1
                progress(done, total, f"round {number}, {contender.name}")
            enough = number >= scenario.least_rounds and _enough(found, batch, scenario, clock() - began)
            if enough:
                break
    return found


@contextmanager
def _kept(turns: Turns) -> Iterator[None]:
    """Keep the error of a contender that fails."""
    try:
        yield
    except BenchError as error:
        turns.error = error


def _turn(contender: Contender, turns: Turns, batch: int, number: int, repeats: int) -> None:
    before = turns.rounds.setdefault(batch, [])
    reasons: list[str] = []
    for _ in range(repeats + 1):
        reading = contender.round(batch)
        reasons = disturbances(reading, before)
        if not reasons:
            break
    before.append(reading)
    turns.disturbances.setdefault(batch, []).extend(f"round {number}: {reason}" for reason in reasons)


def disturbances(reading: Round, before: Sequence[Round]) -> list[str]:
    """Say what disturbed a round: other processes, heat, swapping, or a clock slower than in the rounds *before*."""
    found = []
    if reading.foreign_share > MOST_FOREIGN:
        found.append(f"other processes used {reading.foreign_share:.0%} of the cores")
    if reading.throttled:
        found.append(f"{reading.throttled} thermal events slowed the processor")
    if reading.swapped_bytes:
        found.append(f"{reading.swapped_bytes / 2**20:.1f} MiB were swapped")
    fastest = max((r.frequency_hz for r in before if r.frequency_hz), default=None)
    if fastest and reading.frequency_hz and reading.frequency_hz < SLOWEST * fastest:
        found.append(f"the cores ran at {reading.frequency_hz / 1e9:.2f} GHz instead of {fastest / 1e9:.2f}")
    return found


def _enough(found: Sequence[Turns], batch: int, scenario: Scenario, spent_s: float) -> bool:
    if spent_s >= scenario.seconds:
        return True
    running = [turns.rounds[batch] for turns in found if turns.error is None]
    times = [[r.prefill_s for r in rounds] for rounds in running] + [[r.decode_s for r in rounds] for rounds in running]
    return all(is_narrow(readings, scenario.tolerance) for readings in times)


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
