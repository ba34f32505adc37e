"""Measure contestants in alternating rounds, each in a process of its own; who fails leaves the others to go on."""

from __future__ import annotations

import pkgutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from bitnet_bench.errors import BenchError
from bitnet_bench.gguf.files import refuse_fault
from bitnet_bench.measure import machine
from bitnet_bench.measure.child import GATE, Child
from bitnet_bench.measure.costs import Entry, costs
from bitnet_bench.measure.rounds import alternate
from bitnet_bench.measure.scenario import Scenario as Scenario
from bitnet_bench.ports import NO_OPTIONS, Progress, RuntimeOptions
from bitnet_bench.records import Checkpoint, Cost, Measured, Precision, RuntimeParity, Unavailable

IDLE_S = 2.0


@dataclass(frozen=True)
class Contestant:
    """A checkpoint at a precision in a backend, the latter as `module:Class`."""

    checkpoint: Checkpoint
    precision: Precision
    backend: str
    backend_path: str
    options: RuntimeOptions = NO_OPTIONS
    checked: bool = False
    """Whether the backend is a `ports.CheckedBackend`."""

    @property
    def name(self) -> str:
        """What its row is called."""
        return f"{self.checkpoint.source} {self.backend} {self.precision}"


@dataclass
class Outcome:
    """What measuring one contestant gave: a cost for each batch, or why there is none."""

    costs: list[Cost] = field(default_factory=list)
    parity: RuntimeParity | None = None
    error: BenchError | None = None


def measure(contestants: Sequence[Contestant], scenario: Scenario, meter: str, progress: Progress) -> list[Outcome]:
    """Return what each contestant costs, in order. *meter* is a `module:Class` (see `ports.Meter`)."""
    threads = scenario.threads or machine.cores()
    idle = idle_power(pkgutil.resolve_name(meter)())
    found = [Outcome() for _ in contestants]
    children = [Child(c.name, _task(c, scenario, threads, meter), scenario.timeout_s) for c in contestants]
    with ExitStack() as stack:
        for number, (child, outcome) in enumerate(zip(children, found, strict=True), 1):
            stack.callback(child.close)
            progress(number - 1, len(children), f"load {child.name}")
            try:
                outcome.parity = _parity(contestants[number - 1], scenario.timeout_s)
                child.open()
            except BenchError as error:
                outcome.error = error
        running = [i for i, outcome in enumerate(found) if outcome.error is None]
        turns = alternate([children[i] for i in running], scenario, time.monotonic, progress)
    for i, turned in zip(running, turns, strict=True):
        contestant, opened = contestants[i], children[i].opened
        assert opened is not None
        entry = Entry(contestant.backend, contestant.precision, contestant.checkpoint, found[i].parity, threads)
        found[i] = Outcome(costs(entry, opened, turned, idle), found[i].parity, turned.error)
    return found


def _parity(contestant: Contestant, timeout_s: float) -> RuntimeParity | None:
    """Return how far a runtime of others is from the checkpoint; BenchError if it is too far and nobody said so."""
    if not contestant.checked:
        return None
    gate = Child(f"the parity of {contestant.name}", _question(contestant), timeout_s, GATE)
    try:
        found = gate.check()
    finally:
        gate.close()
    refuse_fault(found, contestant.options.despite_parity)
    return found


def idle_power(meter: Any, seconds: float = IDLE_S) -> Measured | Unavailable:
    """Return the watts that this machine draws while nothing of ours runs; what a model says of that is not asked."""
    if getattr(meter, "modelled", False):
        return Unavailable(reason="idle power is measured, and this meter models")
    if hasattr(meter, "why_absent") and (reason := meter.why_absent()):
        return Unavailable(reason=reason)
    meter.start()
    began = time.perf_counter()
    time.sleep(seconds)
    joules = meter.stop()
    if not isinstance(joules, Measured):
        return Unavailable(reason=joules.reason)
    watts = joules.median / (time.perf_counter() - began)
    return Measured(unit="W", method=f"{joules.method}, {seconds:g} s before the first round", readings=(watts,))


def _question(contestant: Contestant) -> dict[str, Any]:
    return {
        "checkpoint": contestant.checkpoint.model_dump(mode="json"),
        "precision": contestant.precision,
        "backend": contestant.backend_path,
        "options": asdict(contestant.options),
        "threads": machine.cores(),
    }


def _task(contestant: Contestant, scenario: Scenario, threads: int, meter: str) -> dict[str, Any]:
    return _question(contestant) | {
        "meter": meter,
        "threads": threads,
        "prompt_tokens": scenario.prompt_tokens,
        "new_tokens": scenario.new_tokens,
        "texts": list(scenario.texts),
    }
