"""An executor that runs nothing: steps end in the order in which they were submitted, as a test says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bitnet_bench.sweeps.executors import StepProgress
from bitnet_bench.sweeps.graph import Graph, Step, StepOutcome


class FakeExecutor:
    """Holds at most *room* steps; one of them ends in each `wait`."""

    def __init__(self, room: int = 1, failing: Sequence[str] = (), then: Callable[[Step], None] = lambda step: None):
        self._room, self._failing, self._then = room, failing, then
        self._held: list[Step] = []
        self.started: list[str] = []
        self.was_cancelled = False

    def check(self, graph: Graph) -> None:
        """Accept every graph."""

    def choose(self, ready: Sequence[Step]) -> Sequence[Step]:
        """Return as many as there is room for."""
        return ready[: self._room - len(self._held)]

    def submit(self, steps: Sequence[Step]) -> None:
        """Hold *steps*."""
        self._held += steps
        self.started += [step.id for step in steps]

    def wait(self, timeout_s: float) -> Sequence[StepOutcome]:
        """End the oldest step."""
        step = self._held.pop(0)
        self._then(step)
        fails = step.id in self._failing
        return [StepOutcome(id=step.id, is_done=not fails, problem="It broke." if fails else "", seconds=1.0)]

    def read_progress(self) -> Mapping[str, StepProgress]:
        """Return that half is done of each."""
        return {step.id: StepProgress("works", 1, 2) for step in self._held}

    def cancel(self) -> None:
        """Drop all steps."""
        self._held.clear()
        self.was_cancelled = True
