"""Run the trials of a rung of a search side by side, as a graph of fine-tunings on any executor of sweeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bitnet_bench.pipeline.jobs import compute_key, dump_step
from bitnet_bench.pipeline.running import run_step
from bitnet_bench.pipeline.steps import FinetuneStep
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.sweeps.executors import ExecutorOptions, find_executor, open_executor
from bitnet_bench.sweeps.graph import Graph, Needs, Step, make_graph
from bitnet_bench.sweeps.scheduler import SweepState, run_graph

TRIALS_FOLDER = "trials"
"""Folder in that of a search for the graph of a rung, and the output of its runs."""


ShowGraph = Callable[[Graph], AbstractContextManager[Callable[[SweepState], None]]]


@contextmanager
def show_nothing(graph: Graph) -> Iterator[Callable[[SweepState], None]]:
    """Show nothing of a rung that runs."""
    yield lambda state: None


def make_trial_runner(
    out: Path,
    backend: str,
    on: str,
    options: ExecutorOptions,
    gpus: int = 0,
    show: ShowGraph = show_nothing,
) -> Callable[[Sequence[FinetuneJob]], None]:
    """Return what runs the jobs of a rung on the executor *on*, each with *gpus*; UsageError for an unknown executor.

    A job that fails there is left as it is: the search runs it again by itself, and says what is wrong with it.
    """
    find_executor(on)

    def run(jobs: Sequence[FinetuneJob]) -> None:
        graph = plan_trials(jobs, out / TRIALS_FOLDER, backend, gpus)
        graph.save()
        with show(graph) as display, open_executor(on, graph, run_step, options) as executor:
            run_graph(graph, executor, display=display)

    return run


def plan_trials(jobs: Sequence[FinetuneJob], folder: Path, backend: str, gpus: int) -> Graph:
    """Return the graph of *jobs*, none of which waits for another."""
    steps = []
    for job in jobs:
        step = FinetuneStep(job, backend, job.out)
        key = compute_key(step)
        steps.append(
            Step(
                id=f"{job.precision}-{key[:12]}",
                kind="finetune",
                title=step.title,
                job=dump_step(step),
                key=key,
                outputs=(job.out,),
                folder=job.out,
                needs=Needs(gpus=gpus),
            )
        )
    return make_graph(folder, steps, "search")
