"""Define what runs the steps of a sweep somewhere, and find it by its name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bitnet_bench.errors import UsageError, did_you_mean
from bitnet_bench.protocols import ProgressDisplay
from bitnet_bench.sweeps.graph import GRAPH_FILE, Graph, Step, StepOutcome

EXECUTORS: dict[str, str] = {
    "local": "bitnet_bench.sweeps.local:open_executor",
}
"""Function that opens each executor, as MODULE:FUNCTION; it is imported when the executor is used."""


class RunStep(Protocol):
    """Module-level function that runs a step in the current process; it returns an outcome and raises no Exception."""

    def __call__(self, step: Step, steps: ProgressDisplay) -> StepOutcome:
        """Run *step*: skip what is finished in its folder, and resume what was begun; *steps* shows how far it is."""


@dataclass(frozen=True)
class StepProgress:
    """How far a running step is."""

    title: str
    done: int = 0
    total: int = 0
    note: str = ""


@dataclass(frozen=True)
class ExecutorOptions:
    """What the user says of where steps run; each executor takes what concerns it, and refuses nothing else."""

    jobs: int | None = None
    """Most steps at a time; None is the executor's default."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Options of one executor alone, such as the address of a Ray cluster."""


class Executor(Protocol):
    """Runs steps of one graph somewhere. `run_graph` calls it from one thread.

    A handle is the id of a step that was submitted. A step that was lost with its node is reported as an outcome with
    `is_lost`, after the executor's own retries.
    """

    def check(self, graph: Graph) -> None:
        """Raise UsageError for a step that can never run here, such as one that needs more GPUs than there are."""

    def choose(self, ready: Sequence[Step]) -> Sequence[Step]:
        """Return those of *ready* that there is room for now, in the order in which they should start.

        A queue that holds more than it runs, such as SLURM's, returns all.
        """

    def submit(self, steps: Sequence[Step]) -> None:
        """Start or queue *steps*, which `choose` returned."""

    def wait(self, timeout_s: float) -> Sequence[StepOutcome]:
        """Return the outcomes of steps that have ended since the last call; wait at most *timeout_s* for the first."""

    def read_progress(self) -> Mapping[str, StepProgress]:
        """Return what is known of how far running steps are, by id; a queued step is not in it."""

    def cancel(self) -> None:
        """End all steps that run or wait, and return when none runs any more; what they finished is kept."""


OpenExecutor = Callable[[Graph, RunStep, ExecutorOptions], AbstractContextManager[Executor]]
"""Function that opens an executor for a graph. The function that runs a step is picklable by its name."""


def open_executor(
    name: str, graph: Graph, run_step: RunStep, options: ExecutorOptions | None = None
) -> AbstractContextManager[Executor]:
    """Return the executor called *name* as a context manager; UsageError with the nearest name if there is none."""
    opener = find_executor(name)
    return opener(graph, run_step, options or ExecutorOptions())


def find_executor(name: str) -> OpenExecutor:
    """Return the function that opens the executor called *name*."""
    if name not in EXECUTORS:
        hint = f"{did_you_mean(name, sorted(EXECUTORS))} There are: {', '.join(sorted(EXECUTORS))}."
        raise UsageError(f"There is no executor {name!r}.", hint.strip())
    module, _, function = EXECUTORS[name].partition(":")
    found: OpenExecutor = getattr(importlib.import_module(module), function)
    return found


def make_command(graph: Graph, step: Step) -> list[str]:
    """Return the command that runs *step* in a process of its own, on any machine that sees the sweep's folder.

    It writes the outcome to `graph.find_outcome(step)`. A step of several processes is started by torchrun.
    """
    command = ["bitnet_bench", "sweep", str(Path(graph.folder) / GRAPH_FILE), "--step", step.id]
    if step.needs.processes > 1:
        return [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            str(step.needs.processes),
            "-m",
            *command,
        ]
    return [sys.executable, "-m", *command]
