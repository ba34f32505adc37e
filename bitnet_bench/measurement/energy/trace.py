"""Replay a recorded power trace, so that the handling of joules can be tested without a counter."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from pydantic import ValidationError

from bitnet_bench.errors import BenchError, format_validation_error
from bitnet_bench.files import read_text
from bitnet_bench.measurement.energy.limits import make_measured_joules
from bitnet_bench.protocols import Meter
from bitnet_bench.runs.records import Measured, Unavailable
from bitnet_bench.runs.value import Value

POWER_TRACE_VARIABLE = "BITNET_BENCH_POWER_TRACE"
"""Environment variable that names a JSONL file of {"s": seconds, "w": watts}, in order of time; the first row is the
moment of opening."""


TRACE_HINT = f'{POWER_TRACE_VARIABLE} names a file with {{"s": seconds, "w": watts}} in each line.'


class _TraceRow(Value):
    """One line of a trace."""

    s: float
    w: float


class TraceMeter(Meter):
    """Integrates a recorded trace over the interval, as if this process ran on the device of the trace."""

    def __init__(self, trace: Path | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        path = trace or (Path(os.environ[POWER_TRACE_VARIABLE]) if os.environ.get(POWER_TRACE_VARIABLE) else None)
        self._clock, self._opened = clock, clock()
        self._rows = _read_trace(path) if path else []
        self._method = f"recorded trace {path.name if path else ''}".strip()
        self._began: float | None = None

    def why_absent(self) -> str | None:
        """Return why nothing can be read, or None if something can."""
        return None if self._rows else f"no trace is named ({POWER_TRACE_VARIABLE})"

    def start(self) -> None:
        """Store the current time."""
        self._began = self._clock() - self._opened

    def stop(self) -> Measured | Unavailable:
        """Return the integral of the trace since `start`."""
        if reason := self.why_absent():
            return Unavailable(reason=reason)
        if self._began is None:
            return Unavailable(reason="it was not started")
        ended = self._clock() - self._opened
        if ended > self._rows[-1][0]:
            return Unavailable(reason=f"the trace ends after {self._rows[-1][0]:g} s, the interval after {ended:g} s")
        return make_measured_joules(
            integrate_trace(self._rows, self._began, ended), ended - self._began, None, self._method
        )


def integrate_trace(rows: Sequence[tuple[float, float]], begin: float, end: float) -> float:
    """Return joules between two times of a trace of (seconds, watts), linear between its rows."""
    joules = 0.0
    for (left, first), (right, last) in pairwise(rows):
        low, high = max(left, begin), min(right, end)
        if low < high:
            slope = (last - first) / (right - left)
            middle = first + slope * ((low + high) / 2 - left)
            joules += middle * (high - low)
    return joules


def _read_trace(path: Path) -> list[tuple[float, float]]:
    rows = []
    for number, line in enumerate(read_text(path, TRACE_HINT).split("\n"), start=1):
        if line.strip():
            try:
                row = _TraceRow.model_validate_json(line)
            except ValidationError as error:
                why = format_validation_error(error)
                raise BenchError(f"Line {number} of {path} cannot be read: {why}.", TRACE_HINT) from error
            rows.append((row.s, row.w))
    return rows
