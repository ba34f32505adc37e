"""Print what a sweep would do, what it did, and run one of its steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bitnet_bench.cli.output import print_json, show_runs
from bitnet_bench.cli.sentences import print_error, print_open, print_text
from bitnet_bench.cli.sweep_tables import describe_plan, describe_state, list_failures, show_plan, show_results
from bitnet_bench.cli.tables import progress_bar

if TYPE_CHECKING:
    from bitnet_bench.pipeline.planning import SweepPlan
    from bitnet_bench.pipeline.recipe import Sweep
    from bitnet_bench.sweeps.scheduler import SweepState


def show_outcome(wanted: Sweep, plan: SweepPlan, state: SweepState, folder: Path, as_json: bool) -> None:
    """Print the table of all runs, and what failed."""
    from bitnet_bench.pipeline.board_step import RESULTS_FILE, read_results
    from bitnet_bench.runs.folder import load_record
    from bitnet_bench.runs.twins import is_run

    if as_json:
        print_json(describe_state(state))
    elif not wanted.has_matrix:
        show_runs([load_record(run) for run in plan.run_folders if is_run(run)])
    elif (folder / RESULTS_FILE).is_file():
        show_results(read_results(folder / RESULTS_FILE))
    for said in list_failures(state):
        print_error(said)
    if as_json:
        return
    print_text(f"Runs: {folder}")
    pages = [Path(path) for step in state.list_in("done") for path in step.outputs if path.endswith(".html")]
    for page in pages:
        print_text(f"Page: {page}")
        print_open(page)


def run_one_step(file: Path, name: str) -> None:
    """Run one step of a graph in this process, and leave its outcome where the scheduler looks for it."""
    from bitnet_bench.files import write_whole
    from bitnet_bench.pipeline.running import run_step
    from bitnet_bench.processes import is_first_process
    from bitnet_bench.sweeps.graph import find_step, load_graph

    graph = load_graph(file)
    outcome = run_step(find_step(graph, name), progress_bar)
    if is_first_process():
        write_whole(graph.find_outcome(name), outcome.model_dump_json() + "\n")
    if not outcome.is_done:
        print_error(outcome.problem)
        raise typer.Exit(1)


def show_cost(wanted: Sweep, folder: Path, data_dir: Path | None, tflops: float | None, as_json: bool) -> None:
    """Print the graph of a sweep, what it takes by estimate, and what is done."""
    from bitnet_bench.pipeline.planned_cost import estimate_plan
    from bitnet_bench.pipeline.planning import plan_sweep
    from bitnet_bench.sweeps.local import look_at_machine

    plan = plan_sweep(wanted, folder, data_dir, len(look_at_machine().gpus))
    with progress_bar("plan") as progress:
        cost = estimate_plan(plan, tflops, progress)
    if as_json:
        print_json(describe_plan(plan, cost))
        return
    show_plan(plan, cost)
    print_text("Estimates, good to a factor of three: docs/recipes.md says how they are made. Nothing was run.")
