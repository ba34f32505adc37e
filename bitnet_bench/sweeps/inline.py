"""Run steps one after the other in this process, with the errors and the progress of the plain commands."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from bitnet_bench.sweeps.executors import StepProgress
from bitnet_bench.sweeps.graph import Graph, Step, StepOutcome


class InlineExecutor:
    """Runs each step when it is submitted; an error of a step is raised, and so ends the sweep."""

    def __init__(self, run: Callable[[Step], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._clock = run, clock
        self._ended: list[StepOutcome] = []

    def check(self, graph: Graph) -> None:
        """Accept every graph: what a step needs is found out when it runs."""

    def choose(self, ready: Sequence[Step]) -> Sequence[Step]:
        """Return the first step."""
        return ready[:1]

    def submit(self, steps: Sequence[Step]) -> None:
        """Run *steps*."""
        for step in steps:
            began_s = self._clock()
            self._run(step)
            self._ended.append(StepOutcome(id=step.id, is_done=True, seconds=self._clock() - began_s))

    def wait(self, timeout_s: float) -> Sequence[StepOutcome]:
        """Return the outcomes of the steps that have ended."""
        ended, self._ended = self._ended, []
        return ended

    def read_progress(self) -> Mapping[str, StepProgress]:
        """Return nothing: a step that runs here shows its own progress."""
        return {}

    def cancel(self) -> None:
        """Do nothing: no step runs while the scheduler does."""
