"""Load candidates one after the other, the quickest first, each within its share of the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bitnet_bench.errors import BenchError
from bitnet_bench.measurement.budget import Budget, Countdown, OutOfBudgetError, format_duration
from bitnet_bench.measurement.forecast import Forecast
from bitnet_bench.runs.records import RuntimeParity

MAX_LOADING_SHARE = 0.7
"""Share of the budget that loading all candidates may take, so that time is left to run them."""
MIN_LOADING_SHARE = 0.1
"""Share of the budget that each waiting candidate is guaranteed. The candidate being loaded may use the rest: stopping
it earlier gains nothing."""
MIN_LOAD_S = 0.5
"""Seconds below which loading a model is not tried: its process alone takes that long to start."""
MAX_FORECAST_RATIO = 1.2
"""Ratio of a candidate's forecast to its share of the time above which it is not loaded."""


class Loadable(Protocol):
    """A candidate that can be loaded; OutOfBudgetError if that takes longer than *within_s*."""

    name: str

    def load(self, within_s: float) -> RuntimeParity | None:
        """Load the candidate; if another project's runtime computes, compare it with the checkpoint first."""


@dataclass(frozen=True)
class QueuedCandidate:
    """A candidate that needs time, and what is known about how much."""

    loadable: Loadable
    forecast: Callable[[], Forecast | None]
    """Return the least time that one run takes; called before anything is loaded."""
    weight_bytes: int
    kind: tuple[str, str]
    """Checkpoint and backend: candidates of the same kind take about the same time to load."""


@dataclass
class Admission:
    """The outcome of loading one candidate."""

    parity: RuntimeParity | None = None
    left_out: str | None = None
    error: BenchError | None = None

    @property
    def is_running(self) -> bool:
        """Return whether the candidate can run rounds."""
        return self.error is None and self.left_out is None


def load_candidates(entrants: Sequence[QueuedCandidate], countdown: Countdown) -> list[Admission]:
    """Load every candidate that fits, the quickest first, so that slower ones get what is left of its share."""
    budget = countdown.budget
    countdown.show_progress("foresee")
    forecasts = [entrant.forecast() for entrant in entrants]
    order = sorted(range(len(entrants)), key=lambda i: _estimate_demand(entrants[i], forecasts[i]))
    found = [Admission() for _ in entrants]
    loaded_s: dict[tuple[str, str], float] = {}
    for waiting, index in zip(range(len(order), 0, -1), order, strict=True):
        entrant, forecast, admission = entrants[index], forecasts[index], found[index]
        run_share = budget.left_s / waiting
        load_share = _load_share(budget, waiting)
        slow_load_s = loaded_s.get(entrant.kind, 0.0)
        if load_share < MIN_LOAD_S:
            admission.left_out = f"No time was left for it in the {budget.describe()}."
        elif forecast and forecast.seconds > MAX_FORECAST_RATIO * run_share:
            admission.left_out = _explain_too_long(forecast.describe(), run_share, countdown)
        elif slow_load_s > load_share:
            loads = f"loading it would take about {format_duration(slow_load_s)}, as the other precision did"
            admission.left_out = _explain_too_long(loads, load_share, countdown)
        else:
            countdown.show_progress(f"load {entrant.loadable.name}")
            began = budget.elapsed_s
            _try_load(entrant.loadable, load_share, admission)
            if admission.error is None:
                loaded_s[entrant.kind] = budget.elapsed_s - began
    return found


def _load_share(budget: Budget, waiting: int) -> float:
    """Return the seconds that the next of *waiting* candidates may take to load."""
    left = max(0.0, budget.left_until_s(MAX_LOADING_SHARE))
    return left - (waiting - 1) * min(MIN_LOADING_SHARE * budget.seconds, left / waiting)


def _estimate_demand(entrant: QueuedCandidate, forecast: Forecast | None) -> tuple[float, int]:
    return (forecast.seconds if forecast else 0.0, entrant.weight_bytes)


def _explain_too_long(what: str, share_s: float, countdown: Countdown) -> str:
    share = format_duration(max(0.0, share_s))
    return f"{what[0].upper()}{what[1:]}; its share of the {countdown.budget.describe()} is {share}."


def _try_load(loadable: Loadable, within_s: float, admission: Admission) -> None:
    try:
        admission.parity = loadable.load(within_s)
    except OutOfBudgetError as error:
        admission.left_out = error.problem
    except BenchError as error:
        admission.error = error
