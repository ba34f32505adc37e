"""Summarize the rounds of a candidate as a `Cost` for each batch, which keeps the raw readings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bitnet_bench.measurement.energy.joules import make_energy_metrics
from bitnet_bench.measurement.messages import OpenResult
from bitnet_bench.measurement.readings import Round
from bitnet_bench.measurement.rounds import RoundResults
from bitnet_bench.measurement.worker import SHORTEST_ROUND_S
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.records import Checkpoint, Cost, DroppedRound, Measured, Measurement, RuntimeParity, Unavailable

CLOCK_METHOD = f"monotonic clock, mean over a round of {SHORTEST_ROUND_S} s or more, after "
WARM_METHOD, COLD_METHOD = (
    "a warm-up round",
    "short probes only: it is the warm-up round, and the budget has no time for others",
)
MIN_QUIET_ROUNDS = 3
"""Number of undisturbed rounds from which on disturbed ones are left out."""
TOKEN_PERCENTILES = {"token_p50_s": 0.5, "token_p95_s": 0.95, "token_p99_s": 0.99}


@dataclass(frozen=True)
class CandidateInfo:
    """The candidate that was measured."""

    backend: str
    precision: Precision
    checkpoint: Checkpoint
    parity: RuntimeParity | None
    threads: int


def make_costs(
    entry: CandidateInfo, opened: OpenResult, turns: RoundResults, idle: Measured | Unavailable
) -> list[Cost]:
    """Return a cost for each batch that has a round."""
    return [_make_cost(entry, opened, turns, batch, idle) for batch, rounds in turns.rounds.items() if rounds]


def _make_cost(
    entry: CandidateInfo, opened: OpenResult, turns: RoundResults, batch: int, idle: Measured | Unavailable
) -> Cost:
    why = turns.disturbances.get(batch, {})
    rounds, left_out = _select_rounds(turns.rounds[batch], why)
    prompt, new = rounds[0].prompt_tokens, rounds[0].new_tokens
    return Cost(
        backend=entry.backend,
        precision=entry.precision,
        prompt_tokens=prompt,
        new_tokens=new,
        batch=batch,
        threads=entry.threads,
        weight_bytes=entry.checkpoint.weight_bytes,
        resident_weight_bytes=opened.resident_weight_bytes,
        resident_by_kind=opened.resident_by_kind,
        kv_bytes=opened.kv_per_token * (prompt + new - 1) * batch,
        metrics={
            "load_s": _make_measured("s", "monotonic clock around opening", [opened.load_s]),
            **_make_speed_metrics(rounds, batch, CLOCK_METHOD + (COLD_METHOD if batch in turns.cold else WARM_METHOD)),
            "peak_bytes": _make_measured("B", opened.memory_method, [float(turns.peak_bytes[batch])]),
            **make_energy_metrics(rounds, batch, idle),
        },
        foreign_load=sum(r.foreign_share for r in rounds) / len(rounds),
        conditions=_make_conditions(rounds) | _make_card_metric(turns.card_bytes.get(batch)),
        runtime=next((r.runtime for r in reversed(rounds) if r.runtime), None),
        disturbances=tuple(f"round {i + 1}: {', '.join(reasons)}" for i, reasons in why.items()),
        left_out=left_out,
        once_because=turns.once.get(batch) if len(turns.rounds[batch]) == 1 else None,
        parity=entry.parity,
    )


def _select_rounds(
    rounds: Sequence[Round], why: Mapping[int, list[str]]
) -> tuple[list[Round], tuple[DroppedRound, ...]]:
    """Return the rounds that count, and those left out: the disturbed ones, if enough others were made."""
    quiet = [reading for i, reading in enumerate(rounds) if i not in why]
    if len(quiet) < MIN_QUIET_ROUNDS:
        return list(rounds), ()
    return quiet, tuple(
        DroppedRound(
            round=i + 1, why=tuple(reasons), prefill_s=rounds[i].prefill_s, decode_s=_compute_token_s(rounds[i])
        )
        for i, reasons in why.items()
    )


def _compute_token_s(reading: Round) -> float:
    """Return the seconds per token."""
    return reading.decode_s / (reading.new_tokens - 1)


def _make_speed_metrics(rounds: Sequence[Round], batch: int, clock: str) -> dict[str, Measurement]:
    prefill = [r.prefill_s for r in rounds]
    decode = [_compute_token_s(r) for r in rounds]
    tokens = [s for r in rounds for s in r.token_s]
    prompt = rounds[0].prompt_tokens
    found: dict[str, Measurement] = {
        "prefill_s": _make_measured("s", f"{clock}; the first new token is chosen in it", prefill),
        "prefill_tokens_per_s": _make_measured(
            "tokens/s", "prompt tokens / time", [batch * prompt / s for s in prefill]
        ),
        "decode_s": _make_measured("s/token", clock, decode),
        "decode_tokens_per_s": _make_measured("tokens/s", "batch / time of a token", [batch / s for s in decode]),
        "token_s": _make_measured("s", "monotonic clock around each token, one repetition a round", tokens),
    }
    method = f"nearest rank of {len(tokens)} tokens timed one by one"
    return found | {name: _make_measured("s", method, [percentile(tokens, q)]) for name, q in TOKEN_PERCENTILES.items()}


def percentile(readings: Sequence[float], share: float) -> float:
    """Return the least reading that *share* of all readings do not exceed (the nearest rank)."""
    return sorted(readings)[max(0, math.ceil(share * len(readings)) - 1)]


def _make_conditions(rounds: Sequence[Round]) -> dict[str, Measurement]:
    return {
        "frequency_hz": _make_measurement(
            "Hz", "mean of the cores, at the ends of a round", (r.frequency_hz for r in rounds)
        ),
        "stolen": _make_measurement(
            "share of the cores", "the kernel's count of stolen time", (r.stolen_share for r in rounds)
        ),
        "pace_s": _make_measurement(
            "s", "a hash on each thread, at the slower end of a round", (r.pace_s for r in rounds)
        ),
        "throttled": _make_measurement(
            "events", "the kernel's counts of thermal throttling", (r.throttled for r in rounds)
        ),
        "swapped_bytes": _make_measurement(
            "B", "pages swapped in and out, whole machine", (r.swapped_bytes for r in rounds)
        ),
        **_make_gpu_conditions(rounds),
    }


def _make_card_metric(taken: int | None) -> dict[str, Measurement]:
    """Return how much of the GPU's memory the candidate took, if it runs on a GPU."""
    method = "taken of the card since before loading, after the warm-up: what the allocator keeps, graphs, workspaces"
    return {} if taken is None else {"card_bytes": _make_measured("B", method, [float(taken)])}


def _make_gpu_conditions(rounds: Sequence[Round]) -> dict[str, Measurement]:
    """Return what was read from the GPU; nothing for a candidate that runs on the CPU."""
    if not any(r.gpu_prefill_s or r.gpu_frequency_hz for r in rounds):
        return {}
    events = "CUDA events around the queued work, mean over a round"
    counted = "the driver's count of the time in which {} held the clock down"
    return {
        "gpu_prefill_s": _make_measurement("s", events, (r.gpu_prefill_s for r in rounds)),
        "gpu_decode_s": _make_measurement(
            "s/token", events, (None if r.gpu_decode_s is None else r.gpu_decode_s / (r.new_tokens - 1) for r in rounds)
        ),
        "gpu_frequency_hz": _make_measurement(
            "Hz", "NVML, multiprocessors, at the ends of a round", (r.gpu_frequency_hz for r in rounds)
        ),
        "gpu_heat_s": _make_measurement("s", counted.format("heat"), (r.gpu_heat_s for r in rounds)),
        "gpu_power_s": _make_measurement("s", counted.format("the limit of power"), (r.gpu_power_s for r in rounds)),
    }


def _make_measurement(unit: str, method: str, readings: Iterable[float | None]) -> Measurement:
    known = [float(value) for value in readings if value is not None]
    return _make_measured(unit, method, known) if known else Unavailable(reason="this machine does not say")


def _make_measured(unit: str, method: str, readings: list[float]) -> Measured:
    return Measured(unit=unit, method=method, readings=tuple(readings))
