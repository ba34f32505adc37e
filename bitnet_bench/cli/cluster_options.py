"""Join what a recipe and the command line say of the cluster that runs a sweep, and show the jobs of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_bench.cli.output import print_json
from bitnet_bench.cli.sentences import print_text
from bitnet_bench.errors import UsageError

if TYPE_CHECKING:
    from bitnet_bench.pipeline.recipe import Sweep
    from bitnet_bench.sweeps.executors import ExecutorOptions


def choose_options(
    on: str, jobs: int | None, wanted: Sweep, ray: Mapping[str, Any], slurm: Mapping[str, Any]
) -> ExecutorOptions:
    """Return what the executor *on* is told: the recipe's settings, and options of the command line in their place.

    UsageError for an unknown executor, and for an option of another one.
    """
    from bitnet_bench.sweeps.cluster_settings import RaySettings, SlurmSettings, choose_settings
    from bitnet_bench.sweeps.executors import EXECUTORS, ExecutorOptions, check_name

    check_name(on)
    recipe = wanted.cells[0].recipe
    settings: dict[str, Any] = {}
    for name, kind, said, given in (
        ("ray", RaySettings, recipe.ray, ray),
        ("slurm", SlurmSettings, recipe.slurm, slurm),
    ):
        if name == on:
            settings = choose_settings(kind, said, given).model_dump(exclude_unset=True)
            continue
        foreign = next(
            (kind.option_names()[option] for option, value in given.items() if value not in (None, False)), None
        )
        if foreign:
            others = ", ".join(sorted(EXECUTORS.keys() - {name}))
            raise UsageError(f"`--{foreign}` says nothing to {others}.", f"Give `--on {name}` with it.")
    return ExecutorOptions(jobs, settings)


def show_jobs(jobs: Mapping[str, str], folder: Path, as_json: bool) -> None:
    """Print the jobs that were queued for the steps of a sweep that is left to itself."""
    if as_json:
        print_json({"jobs": dict(jobs)})
        return
    for step, job in jobs.items():
        print_text(f"{step}: job {job}")
    print_text(f"Runs: {folder}")
