"""The command that does a whole recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitnet_bench.cli.options import DataDir, Json
from bitnet_bench.cli.output import print_json, show_runs

if TYPE_CHECKING:
    from bitnet_bench.pipeline import steps as pipeline


def run(
    recipe: Annotated[
        Path, typer.Argument(help="A YAML file, or the name of a shipped recipe: understanding, sentiment, ...")
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
) -> None:
    """Fine-tune, evaluate, measure and report as a recipe says.

    A step that is finished is not done again: killed at any moment, the same command goes on. The folder keeps
    recipe.yaml, and is refused to another recipe.
    """
    from bitnet_bench import console
    from bitnet_bench.pipeline import steps as pipeline
    from bitnet_bench.pipeline.recipe import read_recipe

    wanted, folder = read_recipe(recipe), out or Path("runs") / recipe.stem
    if dry_run:
        _show_plan(pipeline.plan(wanted, folder, data_dir), tflops, as_json)
        return
    records = pipeline.run(wanted, folder, data_dir, console.progress_bar)
    if as_json:
        print_json([record.model_dump(mode="json") for record in records])
    else:
        show_runs(records)
        print(f"Runs: {folder}")
        if wanted.report:
            print(f"Report: {folder / pipeline.REPORT}")
    for record in records:
        for name, said in record.errors.items():
            print(f"Error: {record.name} was not scored on {name}. {said}", file=sys.stderr)
    if any(record.errors for record in records):
        raise typer.Exit(1)


def _show_plan(steps: list[pipeline.Step], tflops: float | None, as_json: bool) -> None:
    from bitnet_bench import console
    from bitnet_bench.pipeline.estimates import Speed, estimate

    speed = Speed(tflops * 1e12, f"{tflops:g} TFLOP/s as given") if tflops else None
    with console.progress_bar("plan") as progress:
        found = estimate(steps, speed, progress)
    if as_json:
        print_json([vars(one) for one in found])
        return
    console.show(console.steps_table(found))
    print("Estimates, good to a factor of three: docs/recipes.md says how they are made. Nothing was run.")
