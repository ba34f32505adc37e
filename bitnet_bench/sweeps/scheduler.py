"""Run the steps of a graph on an executor: each when those before it are done, whatever else fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from bitnet_bench.sweeps.executors import Executor, StepProgress
from bitnet_bench.sweeps.graph import Graph, Step, StepOutcome

WAIT_S = 0.25
"""Time after which the display is told how far running steps are."""
StepState = Literal["waiting", "running", "done", "failed", "blocked"]


class DoneIndex(Protocol):
    """Knows which steps are done with their inputs as they are now."""

    def is_current(self, step: Step) -> bool:
        """Return whether *step* is done, and nothing that it read or wrote has changed since."""

    def begin(self, step: Step) -> None:
        """Remember the inputs of *step*, which starts now."""

    def finish(self, step: Step) -> None:
        """Record that *step* is done, with its inputs as `begin` saw them."""


@dataclass
class SweepState:
    """What is known of every step of a sweep that runs."""

    graph: Graph
    states: dict[str, StepState]
    outcomes: dict[str, StepOutcome] = field(default_factory=dict)
    """Outcomes of the steps that have ended in this call."""
    skipped: set[str] = field(default_factory=set)
    """Steps that were done before this call."""
    progress: Mapping[str, StepProgress] = field(default_factory=dict)
    blocked_by: dict[str, str] = field(default_factory=dict)
    """The failed step that each blocked step waits for."""

    def list_in(self, *states: StepState) -> list[Step]:
        """Return the steps in one of *states*, in the order of the graph."""
        return [step for step in self.graph.steps if self.states[step.id] in states]


class _NoIndex:
    """Index of a sweep in which every step looks for itself what is done."""

    def is_current(self, step: Step) -> bool:
        return False

    def begin(self, step: Step) -> None:
        pass

    def finish(self, step: Step) -> None:
        pass


def run_graph(
    graph: Graph,
    executor: Executor,
    index: DoneIndex | None = None,
    display: Callable[[SweepState], None] = lambda sweep: None,
) -> SweepState:
    """Run every step of *graph* that is not done, and return how each ended.

    A failed step blocks those that wait for it and no others. An interruption ends the running steps and is raised
    again: the same call resumes.
    """
    known = index or _NoIndex()
    sweep = SweepState(graph, dict.fromkeys(graph.by_id, "waiting"))
    executor.check(graph)
    _skip_done(sweep, known, graph.steps)
    display(sweep)
    try:
        while sweep.list_in("waiting", "running"):
            _submit_ready(sweep, executor, known)
            assert sweep.list_in("running"), "the executor has room for nothing, and nothing runs"
            _collect_outcomes(sweep, executor, known)
            display(sweep)
    except BaseException:
        executor.cancel()
        raise
    return sweep


def _skip_done(sweep: SweepState, index: DoneIndex, steps: Iterable[Step]) -> None:
    """Mark the steps that are done already; one is looked at when all before it are, because those write its inputs."""
    for step in steps:
        if sweep.states[step.id] == "waiting" and _is_ready(sweep, step) and index.is_current(step):
            sweep.states[step.id] = "done"
            sweep.skipped.add(step.id)


def _is_ready(sweep: SweepState, step: Step) -> bool:
    before = [sweep.states[name] for name in step.after]
    if step.tolerates_failures and before:
        return "done" in before and not {"waiting", "running"} & set(before)
    return all(state == "done" for state in before)


def _submit_ready(sweep: SweepState, executor: Executor, index: DoneIndex) -> None:
    ready = [step for step in sweep.list_in("waiting") if _is_ready(sweep, step)]
    chosen = executor.choose(ready)
    for step in chosen:
        index.begin(step)
        sweep.states[step.id] = "running"
    if chosen:
        executor.submit(chosen)


def _collect_outcomes(sweep: SweepState, executor: Executor, index: DoneIndex) -> None:
    """Record what has ended, and what that blocks or allows to be skipped."""
    for outcome in executor.wait(WAIT_S):
        step = sweep.graph.by_id[outcome.id]
        sweep.outcomes[step.id] = outcome
        sweep.states[step.id] = "done" if outcome.is_done else "failed"
        if outcome.is_done:
            index.finish(step)
            _skip_done(sweep, index, (sweep.graph.by_id[name] for name in sweep.graph.dependents[step.id]))
        else:
            _block_dependents(sweep, step.id, step.id)
    sweep.progress = executor.read_progress()


def _block_dependents(sweep: SweepState, failed: str, cause: str) -> None:
    """Mark the steps that can no longer run because *failed* is not done."""
    for name in sweep.graph.dependents[failed]:
        step = sweep.graph.by_id[name]
        if sweep.states[name] != "waiting":
            continue
        if step.tolerates_failures and any(sweep.states[b] not in ("failed", "blocked") for b in step.after):
            continue
        sweep.states[name] = "blocked"
        sweep.blocked_by[name] = cause
        _block_dependents(sweep, name, cause)
