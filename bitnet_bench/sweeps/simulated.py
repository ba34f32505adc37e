"""Run a graph on machines that are only imagined, on a clock that jumps: how long it takes there, and what it costs.

The scheduler is the one that runs sweeps (`run_graph`); only the executor is imagined. What is not in the numbers: time
in a queue, the start of a job, and a shared file system that is slow.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bitnet_bench.errors import UsageError
from bitnet_bench.sweeps.executors import StepProgress
from bitnet_bench.sweeps.graph import Graph, Step, StepOutcome
from bitnet_bench.sweeps.scheduler import DoneIndex, SweepState, run_graph

GetSeconds = Callable[[Step], float]
FailsAt = Callable[[Step, int], float | None]
"""Function of a step and its attempt, from 1 on: the share of its time after which its node is lost, None if never."""
SECONDS_PER_HOUR = 3600.0
DEFAULT_RETRIES = 3


@dataclass(frozen=True)
class SimulatedNode:
    """A machine with what steps share on it; 0 bytes of memory stands for enough."""

    cpus: int
    gpus: int = 0
    memory_bytes: int = 0

    def has_room(self, beside: Sequence[Step], step: Step) -> bool:
        """Return whether *step* fits on it beside the steps that run there."""
        if beside and (step.needs.exclusive or any(one.needs.exclusive for one in beside)):
            return False
        held = [one.needs for one in (*beside, step)]
        return (
            sum(one.cpus for one in held) <= self.cpus
            and sum(one.gpus for one in held) <= self.gpus
            and (not self.memory_bytes or sum(one.memory_bytes for one in held) <= self.memory_bytes)
        )


@dataclass(frozen=True)
class SimulatedRun:
    """One attempt of a step on a node."""

    step: str
    node: int
    attempt: int
    began_s: float
    ended_s: float
    is_done: bool

    @property
    def seconds(self) -> float:
        """Return how long it ran."""
        return self.ended_s - self.began_s


@dataclass
class SimulatedExecutor:
    """Runs steps on imagined nodes: the first with room takes a step, and a step whose node is lost is tried again."""

    nodes: Sequence[SimulatedNode]
    get_seconds: GetSeconds
    fails_at: FailsAt = lambda step, attempt: None
    retries: int = DEFAULT_RETRIES
    now_s: float = 0.0
    runs: list[SimulatedRun] = field(default_factory=list)
    """Every attempt, in the order in which they ended."""
    _events: list[tuple[float, int, SimulatedRun]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _running: dict[str, int] = field(default_factory=dict)
    _places: dict[str, int] = field(default_factory=dict)
    _attempts: Counter[str] = field(default_factory=Counter)
    _again: list[Step] = field(default_factory=list)
    _steps: dict[str, Step] = field(default_factory=dict)

    def check(self, graph: Graph) -> None:
        """Raise UsageError for a step that no node has enough for."""
        self._steps = dict(graph.by_id)
        for step in graph.steps:
            if not any(node.has_room([], step) for node in self.nodes):
                where = f"Line {step.line}: " if step.line else ""
                raise UsageError(
                    f"{where}{step.id} fits on no node: it needs {step.needs.cpus} cores, {step.needs.gpus} GPUs and "
                    f"{step.needs.memory_bytes:,} bytes.",
                    "Imagine larger nodes, or lower `needs`.",
                )

    def choose(self, ready: Sequence[Step]) -> Sequence[Step]:
        """Return those of *ready* that a node has room for."""
        beside = self._list_beside()
        return [step for step in ready if self._place(step, beside)]

    def submit(self, steps: Sequence[Step]) -> None:
        """Start *steps* where `choose` put them."""
        for step in steps:
            self._start(step)

    def wait(self, timeout_s: float) -> Sequence[StepOutcome]:
        """Let the clock jump to the next end of a step, and return the outcomes of all that end then."""
        while self._events:
            self.now_s = self._events[0][0]
            outcomes = []
            while self._events and self._events[0][0] == self.now_s:
                outcome = self._end(heapq.heappop(self._events)[2])
                outcomes += [outcome] if outcome else []
            self._retry()
            if outcomes:
                return outcomes
        return []

    def read_progress(self) -> Mapping[str, StepProgress]:
        """Return nothing: no step is underway when the clock stands."""
        return {}

    def cancel(self) -> None:
        """Forget what runs."""
        self._events.clear()
        self._running.clear()

    def _list_beside(self) -> list[list[Step]]:
        """Return the steps that run on each node."""
        beside: list[list[Step]] = [[] for _ in self.nodes]
        for name, node in self._running.items():
            beside[node].append(self._steps[name])
        return beside

    def _place(self, step: Step, beside: list[list[Step]]) -> bool:
        for index, node in enumerate(self.nodes):
            if node.has_room(beside[index], step):
                beside[index].append(step)
                self._places[step.id] = index
                return True
        return False

    def _start(self, step: Step) -> None:
        node = self._places.pop(step.id)
        self._attempts[step.id] += 1
        attempt, seconds = self._attempts[step.id], self.get_seconds(step)
        lost = self.fails_at(step, attempt)
        ends_s = self.now_s + (seconds if lost is None else seconds * lost)
        self._running[step.id] = node
        run = SimulatedRun(step.id, node, attempt, self.now_s, ends_s, lost is None)
        heapq.heappush(self._events, (ends_s, next(self._numbers), run))

    def _end(self, run: SimulatedRun) -> StepOutcome | None:
        """Return the outcome of a step; None if it is tried again."""
        self.runs.append(run)
        del self._running[run.step]
        if run.is_done:
            return StepOutcome(id=run.step, is_done=True, seconds=run.seconds, host=f"node{run.node}")
        if run.attempt <= self.retries:
            self._again.append(self._steps[run.step])
            return None
        problem = f"Its node was lost {run.attempt} times."
        return StepOutcome(id=run.step, is_done=False, problem=problem, seconds=run.seconds, is_lost=True)

    def _retry(self) -> None:
        """Start steps again that there is room for now."""
        beside = self._list_beside()
        placed = [step for step in self._again if self._place(step, beside)]
        self._again = [step for step in self._again if step.id not in self._places]
        for step in placed:
            self._start(step)


@dataclass(frozen=True)
class SimulatedSweep:
    """What running a graph on imagined nodes took."""

    state: SweepState
    nodes: tuple[SimulatedNode, ...]
    runs: tuple[SimulatedRun, ...]
    critical_path_s: float
    """Seconds of the longest chain of steps that wait for one another: no number of nodes is faster."""

    @property
    def makespan_s(self) -> float:
        """Return the seconds from the first start to the last end."""
        return max((run.ended_s for run in self.runs), default=0.0)

    def count_gpu_s(self, *, is_reserved: bool) -> float:
        """Return the GPU seconds that steps used, or that the nodes were reserved for."""
        if is_reserved:
            return self.makespan_s * sum(node.gpus for node in self.nodes)
        needs = {step.id: step.needs for step in self.state.graph.steps}
        whole = {run.step: self.nodes[run.node].gpus for run in self.runs if needs[run.step].exclusive}
        return sum(run.seconds * whole.get(run.step, needs[run.step].gpus) for run in self.runs)

    @property
    def lost_s(self) -> float:
        """Return the seconds of attempts whose node was lost."""
        return sum(run.seconds for run in self.runs if not run.is_done)


def simulate_sweep(
    graph: Graph,
    nodes: Sequence[SimulatedNode],
    get_seconds: GetSeconds,
    fails_at: FailsAt = lambda step, attempt: None,
    retries: int = DEFAULT_RETRIES,
    index: DoneIndex | None = None,
) -> SimulatedSweep:
    """Return what running *graph* on *nodes* takes, with the scheduler that runs sweeps."""
    executor = SimulatedExecutor(nodes, get_seconds, fails_at, retries)
    state = run_graph(graph, executor, index)
    path = find_critical_path_s(graph, get_seconds)
    return SimulatedSweep(state, tuple(nodes), tuple(executor.runs), path)


def find_critical_path_s(graph: Graph, get_seconds: GetSeconds) -> float:
    """Return the seconds of the longest chain of steps of *graph* that wait for one another."""
    ends: dict[str, float] = {}
    for step in graph.steps:  # each after those that it waits for
        ends[step.id] = get_seconds(step) + max((ends[before] for before in step.after), default=0.0)
    return max(ends.values(), default=0.0)
