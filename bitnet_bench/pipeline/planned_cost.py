"""Say of each step of a planned sweep whether it is done, and estimate those that are not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bitnet_bench.pipeline.planning import SweepPlan
from bitnet_bench.pipeline.step_estimate import Estimate
from bitnet_bench.protocols import Progress
from bitnet_bench.sweeps.done_index import FileIndex

PlannedState = Literal["done", "to check", "to do"]
"""to check: its results are there, and it compares its inputs with theirs when the sweep is run."""


@dataclass(frozen=True)
class PlannedCost:
    """What is known of each step of a plan before it runs, by id."""

    estimates: Mapping[str, Estimate]
    states: Mapping[str, PlannedState]


def list_done(plan: SweepPlan) -> set[str]:
    """Return the ids of the steps that are done with their files as they are now, and wait for none that is not."""
    index, done = FileIndex(plan.graph), set[str]()
    for step in plan.graph.steps:
        if done.issuperset(step.after) and index.is_current(step):
            done.add(step.id)
    return done


def estimate_plan(plan: SweepPlan, tflops: float | None, progress: Progress) -> PlannedCost:
    """Return what each step takes; *tflops* is the speed of the machine, None measures this one's."""
    done = list_done(plan)
    if len(done) == len(plan.steps):
        return PlannedCost(
            {name: Estimate(step.title, True, 0.0, 0, 0, "") for name, step in plan.steps.items()},
            dict.fromkeys(plan.steps, "done"),
        )
    from bitnet_bench.pipeline.estimates import Speed, estimate_steps  # imports torch

    speed = Speed(tflops * 1e12, f"{tflops:g} TFLOP/s as given") if tflops else None
    found = estimate_steps(list(plan.steps.values()), speed, progress, [name in done for name in plan.steps])
    estimates = dict(zip(plan.steps, found, strict=True))
    states = {name: _name_state(name in done, one.done) for name, one in estimates.items()}
    return PlannedCost(estimates, states)


def _name_state(is_current: bool, has_results: bool) -> PlannedState:
    return "done" if is_current else "to check" if has_results else "to do"
