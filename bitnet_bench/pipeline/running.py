"""Run recipes: every step that is not finished, here or on an executor."""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from bitnet_bench.errors import BenchError, UsageError, explain_system_error
from bitnet_bench.evaluation.select import choose_suites
from bitnet_bench.evaluation.trust import require_trust
from bitnet_bench.pipeline.jobs import load_step
from bitnet_bench.pipeline.matrix import Cell, Place
from bitnet_bench.pipeline.planned_cost import list_done
from bitnet_bench.pipeline.planning import SweepPlan, plan_sweep
from bitnet_bench.pipeline.recipe import Recipe, Sweep, SweepCell, claim_recipe_folder, claim_sweep_folder
from bitnet_bench.pipeline.steps import EvaluateStep, list_suites
from bitnet_bench.protocols import ProgressDisplay, no_display
from bitnet_bench.runs.folder import load_record
from bitnet_bench.runs.records import RunRecord
from bitnet_bench.sweeps.done_index import FileIndex
from bitnet_bench.sweeps.executors import ExecutorOptions, QueuingExecutor, open_executor
from bitnet_bench.sweeps.graph import Step, StepOutcome
from bitnet_bench.sweeps.inline import InlineExecutor
from bitnet_bench.sweeps.scheduler import SweepState, run_graph

Show = Callable[[SweepState], None]


def run_step(step: Step, steps: ProgressDisplay = no_display) -> StepOutcome:
    """Run a step of a graph in this process, as the plain command does, and return how it ended."""
    began_s = time.monotonic()
    problem = ""
    try:
        problem = _run(step, steps)
    except BenchError as error:
        problem = str(error)
    except Exception as error:  # whatever a step raises, the others go on
        explained = explain_system_error(error)
        traceback.print_exc()  # to the log of the step
        problem = str(explained) if explained else f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - began_s
    return StepOutcome(id=step.id, is_done=not problem, problem=problem, seconds=seconds, host=socket.gethostname())


def _run(step: Step, steps: ProgressDisplay) -> str:
    """Run *step*, and return what could not be done, "" if everything was."""
    loaded = load_step(step.kind, step.job)
    loaded.run(steps)
    if not isinstance(loaded, EvaluateStep):
        return ""
    errors = load_record(loaded.out).errors
    return "\n".join(f"{loaded.out.name} was not scored on {task}. {said}" for task, said in errors.items())


def prepare_sweep(sweep: Sweep, plan: SweepPlan, out: Path) -> None:
    """Claim the folder of a sweep, and write its graph there; BenchError if it is another one's, or code is untrusted.

    Nothing has been written if an error is raised.
    """
    suites = dict.fromkeys(name for one in sweep.cells for name in list_suites(one.recipe))
    for suite in choose_suites(list(suites)):
        require_trust(suite)  # before hours of training
    claim_sweep_folder(sweep, out)
    plan.graph.save()


def run_sweep(
    sweep: Sweep, plan: SweepPlan, out: Path, on: str, options: ExecutorOptions | None = None, show: Show | None = None
) -> SweepState:
    """Run every step of *sweep* that is not finished in *out* on the executor *on*, and return how each ended.

    After a kill or a failure, the same call resumes.
    """
    index = FileIndex(plan.graph)
    with open_executor(on, plan.graph, run_step, options) as executor:
        executor.check(plan.graph)
        prepare_sweep(sweep, plan, out)
        try:
            state = run_graph(plan.graph, executor, index, show or (lambda state: None))
        finally:
            index.flush()
    if not sweep.has_matrix:
        for folder in plan.run_folders:
            if folder.is_dir():
                claim_recipe_folder(sweep.cells[0].recipe, folder)
    return state


def queue_sweep(
    sweep: Sweep, plan: SweepPlan, out: Path, on: str, options: ExecutorOptions | None = None
) -> Mapping[str, str]:
    """Queue every step of *sweep* that is not finished in *out*, and return their jobs; nobody waits for them.

    UsageError for an executor without a queue that starts steps after others by itself.
    """
    with open_executor(on, plan.graph, run_step, options) as executor:
        executor.check(plan.graph)
        if not isinstance(executor, QueuingExecutor):
            raise UsageError(f"The executor {on} does not run anything by itself.", "Leave `--detach` out.")
        prepare_sweep(sweep, plan, out)
        return executor.queue_all(list_done(plan))


def run_inline(
    sweep: Sweep, out: Path, data_dir: Path | None = None, steps: ProgressDisplay = no_display
) -> list[RunRecord]:
    """Run every step of *sweep* that is not finished in *out* in this process, and return the record of every run.

    The first error is raised. After a kill, the same call resumes. Raise BenchError if *out* holds results of another
    recipe, or of this one with other data or another base.
    """
    plan = plan_sweep(sweep, out, data_dir)
    prepare_sweep(sweep, plan, out)
    index = FileIndex(plan.graph)

    def run(step: Step) -> None:
        original = plan.steps[step.id]
        original.run(steps)
        if isinstance(original, EvaluateStep) and not sweep.has_matrix:
            claim_recipe_folder(sweep.cells[0].recipe, original.out)

    try:
        run_graph(plan.graph, InlineExecutor(run), index)
    finally:
        index.flush()
    return [load_record(folder) for folder in plan.run_folders]


def run_recipe(
    recipe: Recipe, out: Path, data_dir: Path | None = None, steps: ProgressDisplay = no_display
) -> list[RunRecord]:
    """Run every step of *recipe* as `run_inline` does."""
    place = Place(Path("recipe.yaml"), {(): 1})
    sweep = Sweep((SweepCell(recipe, Cell({}, {}, ())),), place, has_matrix=False, matrix={})
    return run_inline(sweep, out, data_dir, steps)
