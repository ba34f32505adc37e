"""The commands that run whole recipes: one, or every combination of a matrix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitnet_bench.cli.completion import complete_executors, complete_recipes
from bitnet_bench.cli.job_options import Fields, with_fields
from bitnet_bench.cli.loading import TO_SCORE, load_libraries
from bitnet_bench.cli.options import DataDir, Json
from bitnet_bench.cli.output import print_json, show_runs
from bitnet_bench.cli.sentences import print_error, print_open, print_text
from bitnet_bench.cli.sweep_results import run_one_step, show_cost, show_outcome
from bitnet_bench.cli.tables import progress_bar

if TYPE_CHECKING:
    from bitnet_bench.pipeline.recipe import Sweep
    from bitnet_bench.runs.records import RunRecord

RecipeFile = Annotated[
    Path,
    typer.Argument(
        help="A YAML file, or the name of a shipped recipe: understanding, sentiment, ...",
        autocompletion=complete_recipes,
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="Folder for everything it writes [default: runs/RECIPE].", show_default=False)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the steps, and estimates of time, memory and disk.")]
Tflops = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="With --dry-run: plan for a machine of so many TFLOP/s instead of this one.",
        show_default=False,
    ),
]


@with_fields
def run(
    recipe: RecipeFile,
    out: Out = None,
    data_dir: DataDir = None,
    dry_run: DryRun = False,
    tflops: Tflops = None,
    as_json: Json = False,
    *,
    trust: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:SuiteTrust", ("trust_suite",))],
) -> None:
    """Fine-tune, evaluate, measure and report as a recipe says.

    A step that is finished is not done again: killed at any moment, the same command goes on. The folder keeps
    recipe.yaml, and is refused to another recipe.
    """
    wanted, folder = _read_sweep(recipe, trust["trust_suite"]), out or Path("runs") / recipe.stem
    if dry_run:
        show_cost(wanted, folder, data_dir, tflops, as_json)
        return
    load_libraries(TO_SCORE)
    from bitnet_bench.pipeline.running import run_inline

    has_report = wanted.cells[0].recipe.report
    _show_records(run_inline(wanted, folder, data_dir, progress_bar), has_report, folder, as_json)


@with_fields
def sweep(
    recipe: RecipeFile,
    on: Annotated[
        str,
        typer.Option(
            help="Where steps run: local, in processes of this machine, or an executor that is installed.",
            autocompletion=complete_executors,
        ),
    ] = "local",
    out: Out = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most steps at a time, if their needs leave room [default: 1, or the number of GPUs].",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    dry_run: DryRun = False,
    tflops: Tflops = None,
    step: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Run this step alone, of the graph in the file RECIPE (OUT/sweep.json)."),
    ] = None,
    as_json: Json = False,
    *,
    trust: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:SuiteTrust", ("trust_suite",))],
) -> None:
    """Run every combination of a recipe's matrix, each step once.

    A step that fails leaves the others, those that wait for it are named, and the exit status is 1. The same command
    resumes: a step that is finished is not done again. The result is one table and one page over all runs.
    """
    if step is not None:
        run_one_step(recipe, step)
        return
    wanted, folder = _read_sweep(recipe, trust["trust_suite"]), out or Path("runs") / recipe.stem
    if dry_run:
        show_cost(wanted, folder, data_dir, tflops, as_json)
        return
    _run_sweep(wanted, folder, data_dir, on, jobs, as_json)


def _read_sweep(recipe: Path, trusts: bool) -> Sweep:
    """Return the recipes in a file; *trusts*: the code of their suites may run from now on."""
    from bitnet_bench.evaluation.select import trust_suite_names
    from bitnet_bench.pipeline.recipe import read_sweep
    from bitnet_bench.pipeline.steps import list_suites

    wanted = read_sweep(recipe)
    if trusts:
        trust_suite_names(list(dict.fromkeys(name for one in wanted.cells for name in list_suites(one.recipe))))
    return wanted


def _run_sweep(wanted: Sweep, folder: Path, data_dir: Path | None, on: str, jobs: int | None, as_json: bool) -> None:
    from bitnet_bench.cli.sweep_screen import show_sweep
    from bitnet_bench.pipeline.planning import plan_sweep
    from bitnet_bench.pipeline.running import run_sweep
    from bitnet_bench.sweeps.executors import ExecutorOptions, find_executor
    from bitnet_bench.sweeps.local import look_at_machine

    find_executor(on)
    plan = plan_sweep(wanted, folder, data_dir, len(look_at_machine().gpus))
    with show_sweep(plan.graph) as show:
        state = run_sweep(wanted, plan, folder, on, ExecutorOptions(jobs), show)
    show_outcome(wanted, plan, state, folder, as_json)
    if state.list_in("failed", "blocked"):
        raise typer.Exit(1)


def _show_records(records: list[RunRecord], has_report: bool, folder: Path, as_json: bool) -> None:
    """Print runs and the tasks that could not be scored; raise an exit with status 1 if there are any."""
    from bitnet_bench.pipeline.steps import REPORT_FILE

    if as_json:
        print_json([record.model_dump(mode="json") for record in records])
    else:
        show_runs(records)
        print_text(f"Runs: {folder}")
        if has_report:
            print_text(f"Report: {folder / REPORT_FILE}")
    for record in records:
        for name, said in record.errors.items():
            print_error(f"{record.name} was not scored on {name}. {said}")
    if any(record.errors for record in records):
        raise typer.Exit(1)
    if has_report and not as_json:
        print_open(folder / REPORT_FILE)
