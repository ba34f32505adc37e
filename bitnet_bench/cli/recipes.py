"""The command that runs a whole recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitnet_bench.cli.completion import complete_recipes
from bitnet_bench.cli.job_options import Fields, with_fields
from bitnet_bench.cli.loading import TO_SCORE, load_libraries
from bitnet_bench.cli.options import DataDir, Json
from bitnet_bench.cli.output import print_json, show_runs
from bitnet_bench.cli.sentences import print_error, print_open, print_text
from bitnet_bench.cli.tables import DASH, format_duration, format_gigabytes, make_table, progress_bar, show

if TYPE_CHECKING:
    from rich.table import Table

    from bitnet_bench.pipeline.estimates import Estimate
    from bitnet_bench.pipeline.steps import Step
    from bitnet_bench.runs.records import RunRecord


@with_fields
def run(
    recipe: Annotated[
        Path,
        typer.Argument(
            help="A YAML file, or the name of a shipped recipe: understanding, sentiment, ...",
            autocompletion=complete_recipes,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for everything it writes [default: runs/RECIPE].", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the steps, and estimates of time, memory and disk.")
    ] = False,
    tflops: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="With --dry-run: plan for a machine of so many TFLOP/s instead of this one.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    *,
    trust: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:SuiteTrust", ("trust_suite",))],
) -> None:
    """Fine-tune, evaluate, measure and report as a recipe says.

    A step that is finished is not done again: killed at any moment, the same command goes on. The folder keeps
    recipe.yaml, and is refused to another recipe.
    """
    from bitnet_bench.evaluation.select import trust_suite_names
    from bitnet_bench.pipeline import steps
    from bitnet_bench.pipeline.recipe import read_recipe

    wanted, folder = read_recipe(recipe), out or Path("runs") / recipe.stem
    if dry_run:
        _show_plan(steps.plan_steps(wanted, folder, data_dir), tflops, as_json)
        return
    if trust["trust_suite"]:
        trust_suite_names(steps.list_suites(wanted))
    load_libraries(TO_SCORE)
    _show_records(steps.run_recipe(wanted, folder, data_dir, progress_bar), wanted.report, folder, as_json)


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


def _show_plan(steps: list[Step], tflops: float | None, as_json: bool) -> None:
    from bitnet_bench.pipeline.estimates import Speed, estimate_steps

    speed = Speed(tflops * 1e12, f"{tflops:g} TFLOP/s as given") if tflops else None
    with progress_bar("plan") as progress:
        found = estimate_steps(steps, speed, progress)
    if as_json:
        print_json([vars(one) for one in found])
        return
    show(steps_table(found))
    print_text("Estimates, good to a factor of three: docs/recipes.md says how they are made. Nothing was run.")


def steps_table(steps: Sequence[Estimate]) -> Table:
    """Return the steps of a recipe, one per row, with the sum of the unfinished ones."""
    rows = [
        [
            step.title,
            "done" if step.done else "to do",
            DASH if step.seconds is None else f"~{format_duration(step.seconds)}",
            DASH if step.memory_bytes is None else f"~{format_gigabytes(step.memory_bytes)}",
            DASH if step.disk_bytes is None else f"~{format_gigabytes(step.disk_bytes)}",
            step.note,
        ]
        for step in steps
    ]
    left = [step for step in steps if not step.done]
    known = [step for step in left if step.seconds is not None]
    total = f"~{format_duration(sum(step.seconds or 0.0 for step in known))}"
    disk = f"~{format_gigabytes(sum(step.disk_bytes or 0 for step in known))}"
    memory = f"~{format_gigabytes(max((step.memory_bytes or 0 for step in known), default=0))}"
    unknown = len(left) - len(known)
    rows.append(
        [
            "what is left",
            "",
            total,
            memory,
            disk,
            f"without {unknown} unknown step{'s' * (unknown > 1)}" if unknown else "",
        ]
    )
    made = make_table(
        "Plan (estimates)",
        ["step", "", "time", "memory at most", "disk", "from"],
        rows,
        numbers_from=99,
        unbroken=("", "time"),
        optional=("disk", "memory at most"),
    )
    made.caption = "; ".join(dict.fromkeys(step.speed for step in steps if step.speed))
    return made
