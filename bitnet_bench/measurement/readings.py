"""Check the readings of one round: what disturbed it, and how certain the median of several rounds is."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from bitnet_bench.runs.records import MAX_FOREIGN_SHARE, Measurement
from bitnet_bench.runs.value import Value

MAX_STOLEN_SHARE = 0.02
"""Share of the cores' time given by the host to other machines above which a round was disturbed. Stolen time stops our
own threads; the kernel counts it in steps of 10 ms."""
MIN_SPEED_SHARE = 0.9
"""Share of the frequency or the pace of other rounds below which a round was slowed."""
MAX_HEAT_SHARE = 0.01
"""Share of a round in which heat held a GPU's clock down, above which the round was slowed."""
MEDIAN_COVERAGE = 0.95


class Round(Value):
    """The readings of one round of one candidate; times are means over its repetitions."""

    prefill_s: float = Field(gt=0)
    decode_s: float = Field(gt=0)
    """Seconds of all new tokens after the first."""
    token_s: tuple[float, ...] = Field(min_length=1)
    """Seconds of each new token after the first, in one repetition."""
    prompt_tokens: int = Field(gt=0)
    new_tokens: int = Field(gt=1)
    repetitions: int = Field(gt=0)
    metered_s: float = Field(gt=0)
    """Seconds that the meter ran."""
    energy: Measurement
    """Energy over all repetitions."""
    foreign_share: float = Field(ge=0, le=1)
    stolen_share: float | None = Field(default=None, ge=0, le=1)
    """Share of the cores' time given to other machines of the host; None if the kernel does not count it."""
    pace_s: float | None = Field(default=None, gt=0)
    """Seconds of a fixed piece of work on as many threads, the slower of both ends of the round
    (`machine_state.measure_pace`)."""
    frequency_hz: float | None = None
    throttled: int | None = None
    """Number of thermal events; None if the kernel does not count them."""
    swapped_bytes: int | None = None
    peak_bytes: int | None = Field(default=None, gt=0)
    """Peak of memory, if it was watched during the round."""
    card_bytes: int | None = Field(default=None, ge=0)
    """Bytes of the GPU's memory taken since before the candidate was loaded, if it runs on a GPU."""
    gpu_prefill_s: float | None = Field(default=None, ge=0)
    """The GPU's own seconds, from its first kernel to its last, by CUDA events; the next field is that of the other
    tokens."""
    gpu_decode_s: float | None = Field(default=None, ge=0)
    gpu_frequency_hz: float | None = None
    gpu_slowed_by: tuple[str, ...] = ()
    """Causes that held the GPU's clock down at either end of the round."""
    gpu_heat_s: float | None = Field(default=None, ge=0)
    """Seconds for which heat held the GPU's clock down, as the driver counts them; the next field is for the power
    limit."""
    gpu_power_s: float | None = Field(default=None, ge=0)
    runtime: str | None = None
    """The session's description of what computed."""


def find_disturbed_rounds(rounds: Sequence[Round], seen: Sequence[Round]) -> dict[int, list[str]]:
    """Return why rounds were disturbed, by their index."""
    why = {i: find_disturbances(reading, seen) for i, reading in enumerate(rounds)}
    return {i: reasons for i, reasons in why.items() if reasons}


def find_disturbances(reading: Round, seen: Sequence[Round]) -> list[str]:
    """Return what disturbed a round: other processes or machines, heat, swapping, or less speed than the rounds *seen*.

    A machine's clock and pace do not depend on which candidate is measured, so that *seen* holds the rounds of all of
    them.
    """
    found = []
    if reading.foreign_share > MAX_FOREIGN_SHARE:
        found.append(f"other processes used {reading.foreign_share:.0%} of the cores")
    if reading.stolen_share and reading.stolen_share > MAX_STOLEN_SHARE:
        found.append(f"other machines of the host took {reading.stolen_share:.0%} of the cores")
    if reading.throttled:
        found.append(f"{reading.throttled} thermal events slowed the processor")
    if reading.swapped_bytes:
        found.append(f"{reading.swapped_bytes / 2**20:.1f} MiB were swapped")
    fastest = max((r.frequency_hz for r in seen if r.frequency_hz), default=None)
    if fastest and reading.frequency_hz and reading.frequency_hz < MIN_SPEED_SHARE * fastest:
        found.append(f"the cores ran at {reading.frequency_hz / 1e9:.2f} GHz instead of {fastest / 1e9:.2f}")
    if reading.gpu_heat_s and reading.gpu_heat_s > MAX_HEAT_SHARE * reading.metered_s:
        found.append(f"heat slowed the GPU for {reading.gpu_heat_s:.2f} s")
    boosted = max((r.gpu_frequency_hz for r in seen if r.gpu_frequency_hz), default=None)
    if boosted and reading.gpu_frequency_hz and reading.gpu_frequency_hz < MIN_SPEED_SHARE * boosted:
        found.append(f"the GPU ran at {reading.gpu_frequency_hz / 1e9:.2f} GHz instead of {boosted / 1e9:.2f}")
    quickest = min((r.pace_s for r in seen if r.pace_s), default=None)
    if quickest and reading.pace_s and reading.pace_s > quickest / MIN_SPEED_SHARE:
        found.append(f"the cores did {quickest / reading.pace_s:.0%} of the work of the quietest round")
    return found


def is_narrow(readings: Sequence[float], tolerance: float) -> bool:
    """Return whether the interval of the median is no wider than *tolerance* times the median."""
    low, high = median_interval(readings)
    return high - low <= tolerance * sorted(readings)[len(readings) // 2]


def median_interval(readings: Sequence[float]) -> tuple[float, float]:
    """Return the order statistics that contain the median with 95 %; below six readings the least and the most.

    Each reading lies below the median with probability 1/2, so that the k-th least is above it with P(Binomial(n, 1/2)
    < k).
    """
    ordered, n = sorted(readings), len(readings)
    outside, ways, k = 0.0, 1, 0
    while outside + ways / 2**n <= (1 - MEDIAN_COVERAGE) / 2:
        outside += ways / 2**n
        ways, k = ways * (n - k) // (k + 1), k + 1
    least = max(k - 1, 0)
    return ordered[least], ordered[n - 1 - least]
