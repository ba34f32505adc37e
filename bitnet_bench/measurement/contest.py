"""Measure candidates in alternating rounds within a budget, each in its own process; none affects another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bitnet_bench import plugins
from bitnet_bench.checkpoints.config import read_config
from bitnet_bench.errors import BenchError
from bitnet_bench.measurement.admission import Admission, QueuedCandidate, load_candidates
from bitnet_bench.measurement.budget import Countdown
from bitnet_bench.measurement.ceilings import measure_rates
from bitnet_bench.measurement.child import PARITY_COMMAND, CandidateProcess
from bitnet_bench.measurement.costs import CandidateInfo, make_costs
from bitnet_bench.measurement.forecast import forecast_run
from bitnet_bench.measurement.machine_state import count_cores
from bitnet_bench.measurement.messages import MeasuringTask, ParityTask
from bitnet_bench.measurement.neighbours import NeighbourWatch, WatchedRunner
from bitnet_bench.measurement.rounds import RoundResults, RoundRunner, alternate_rounds
from bitnet_bench.measurement.scenario import Scenario as Scenario
from bitnet_bench.protocols import NO_OPTIONS, EnergySource, RuntimeOptions
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.records import Checkpoint, Cost, Measured, Modelled, RuntimeParity, Unavailable

IDLE_POWER_S = 2.0
MODELLED_REASON = "idle power is measured, and this meter models"


@dataclass(frozen=True)
class PreparedCandidate:
    """A checkpoint at a precision in a backend, which is given as `module:Class`."""

    checkpoint: Checkpoint
    precision: Precision
    backend: str
    backend_path: str
    options: RuntimeOptions = NO_OPTIONS
    checked: bool = False
    """True if the backend is a `protocols.CheckedBackend`."""
    backend_reason: str | None = None
    """Reason why `auto` chose the backend; None if the user named it."""

    @property
    def name(self) -> str:
        """Return the name of the candidate in tables and messages."""
        return f"{self.checkpoint.source} {self.backend} {self.precision}"


@dataclass
class CandidateOutcome:
    """The result of measuring one candidate: a cost for each batch, or why there is none."""

    costs: list[Cost] = field(default_factory=list)
    error: BenchError | None = None
    left_out: str | None = None
    """Reason why the budget left it out at one batch or more; this is not a failure."""


def measure_in_rounds(
    contestants: Sequence[PreparedCandidate],
    scenario: Scenario,
    meter: str,
    countdown: Countdown,
    watch: NeighbourWatch | None = None,
) -> list[CandidateOutcome]:
    """Return the outcome of each candidate, in order. *meter* is a `module:Class` (see `protocols.Meter`).

    *watch* looks at the machine when all candidates are loaded, and between rounds.
    """
    threads = scenario.threads or count_cores()
    countdown.show_progress("idle power")
    idle = measure_idle_power(plugins.create_meter(meter))
    countdown.show_progress("this machine's rates")
    measure_rates(threads)  # cached for the floors: measured now, while no candidate is loaded
    measured = [
        _LoadableCandidate(c, _measuring_task(c, scenario, threads, meter), scenario.timeout_s, countdown)
        for c in contestants
    ]
    with ExitStack() as stack:
        for one in measured:
            stack.callback(one.child.close)
        admitted = load_candidates([one.make_queued(scenario, threads) for one in measured], countdown)
        running = [i for i, admission in enumerate(admitted) if admission.is_running]
        runners: list[RoundRunner] = [measured[i].child for i in running]
        if watch is not None:
            watch.look()
            runners = [WatchedRunner(runner, watch) for runner in runners]
        alternated = alternate_rounds(runners, scenario, countdown)
    turns = dict(zip(running, alternated, strict=True))
    return [
        _make_outcome(one, admission, turns.get(i), idle, threads)
        for i, (one, admission) in enumerate(zip(measured, admitted, strict=True))
    ]


@dataclass
class _LoadableCandidate:
    """A candidate and its process; an `admission.Loadable`."""

    contestant: PreparedCandidate
    task: MeasuringTask
    timeout_s: float
    countdown: Countdown

    def __post_init__(self) -> None:
        self.name = self.contestant.name
        self.child = CandidateProcess(self.name, self.task, self.timeout_s, waiting=self.countdown.show_progress)

    def make_queued(self, scenario: Scenario, threads: int) -> QueuedCandidate:
        """Return what is known about the candidate before it is loaded."""
        one = self.contestant
        config = read_config(Path(one.checkpoint.path))
        return QueuedCandidate(
            self,
            lambda: forecast_run(config, one.backend, one.precision, scenario, threads),
            sum(one.checkpoint.weight_bytes.values()),
            (one.checkpoint.weights_id, one.backend),
        )

    def load(self, within_s: float) -> RuntimeParity | None:
        """Load the candidate; if another project's runtime computes, compare it with the checkpoint first."""
        budget = self.countdown.budget
        ends = budget.elapsed_s + within_s
        parity = self._check_parity(within_s) if self.contestant.checked else None
        self.child.open(max(0.0, ends - budget.elapsed_s))
        return parity

    def _check_parity(self, within_s: float) -> RuntimeParity:
        """Return how far the runtime is from the checkpoint; BenchError if too far and no mismatch is allowed."""
        from bitnet_bench.backends.runtime_parity import check_parity

        task = _parity_task(self.contestant)
        gate = CandidateProcess(
            f"the parity of {self.name}", task, self.timeout_s, PARITY_COMMAND, self.countdown.show_progress
        )
        try:
            found = gate.check(within_s)
        finally:
            gate.close()
        check_parity(found, self.contestant.options.allow_mismatch)
        return found


def _make_outcome(
    one: _LoadableCandidate,
    admission: Admission,
    turns: RoundResults | None,
    idle: Measured | Unavailable,
    threads: int,
) -> CandidateOutcome:
    if turns is None:
        return CandidateOutcome([], admission.error, admission.left_out)
    contestant, opened = one.contestant, one.child.opened
    assert opened is not None
    entry = CandidateInfo(contestant.backend, contestant.precision, contestant.checkpoint, admission.parity, threads)
    several = len(turns.left_out) + len(turns.rounds) > 1
    left_out = [f"At batch {batch}: {why}" if several else why for batch, why in turns.left_out.items()]
    return CandidateOutcome(make_costs(entry, opened, turns, idle), turns.error, " ".join(left_out) or None)


def measure_idle_power(meter: EnergySource, seconds: float = IDLE_POWER_S) -> Measured | Unavailable:
    """Return the watts that this machine draws while no candidate runs; modelled values are not used."""
    if meter.modelled:
        return Unavailable(reason=MODELLED_REASON)
    if reason := meter.why_absent():
        return Unavailable(reason=reason)
    meter.start()
    began = time.perf_counter()
    time.sleep(seconds)
    joules = meter.stop()
    if not isinstance(joules, Measured):
        return Unavailable(reason=MODELLED_REASON if isinstance(joules, Modelled) else joules.reason)
    watts = joules.median / (time.perf_counter() - began)
    return Measured(unit="W", method=f"{joules.method}, {seconds:g} s before the first round", readings=(watts,))


def _parity_task(contestant: PreparedCandidate) -> ParityTask:
    return ParityTask(
        checkpoint=contestant.checkpoint,
        precision=contestant.precision,
        backend=contestant.backend_path,
        options=contestant.options,
        threads=count_cores(),
    )


def _measuring_task(contestant: PreparedCandidate, scenario: Scenario, threads: int, meter: str) -> MeasuringTask:
    return MeasuringTask(
        checkpoint=contestant.checkpoint,
        precision=contestant.precision,
        backend=contestant.backend_path,
        options=contestant.options,
        meter=meter,
        threads=threads,
        prompt_tokens=scenario.prompt_tokens,
        new_tokens=scenario.new_tokens,
        texts=tuple(scenario.texts),
    )
