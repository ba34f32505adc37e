"""Search settings, the same for every arm, and choose on validation rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bitnet_bench.errors import BenchError, DivergedError, UsageError, format_validation_error
from bitnet_bench.files import write_whole
from bitnet_bench.processes import is_first_process
from bitnet_bench.protocols import ProgressDisplay
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import SearchRecord, Trial
from bitnet_bench.training.finetune import finetune

SEARCH_RECORD_FILE = "search.json"
FIXED_FIELDS = {
    "model",
    "data",
    "data_dir",
    "out",
    "validation",
    "hold_out",
    "precision",
    "seed",
    "method",
    "teacher",
    "track",
    "save_every",
    "save_minutes",
    "learning_rate_source",
}
"""Fields that all trials have in common, so that their losses can be compared."""


def parse_grid(options: Sequence[str]) -> dict[str, list[str]]:
    """Return the values to try for each field, from NAME=VALUE,VALUE; raise UsageError for anything else."""
    fields = {option: field for field, option in FinetuneJob.option_names().items()}
    grid: dict[str, list[str]] = {}
    for option in options:
        name, _, values = option.partition("=")
        field = fields.get(name, name)
        if field not in FinetuneJob.model_fields or field in FIXED_FIELDS or not values:
            raise UsageError(
                f"`search={option}` is not NAME=VALUE,VALUE with a setting of a job that can be searched.",
                "Such as `search=lr=1e-4,3e-4,1e-3` and `search=epochs=2,4`.",
            )
        grid[field] = values.split(",")
    return grid


def run_search(
    arms: Mapping[str, FinetuneJob],
    grid: Mapping[str, Sequence[str]],
    seeds: int,
    out: Path,
    backend: str,
    steps: ProgressDisplay,
) -> SearchRecord:
    """Run every point of *grid* for each arm with the job's seed, and the best one with *seeds* - 1 more seeds.

    The best has the lowest validation loss. Runs are in `out/ARM/POINT/seedN`; finished ones are skipped, and killed
    ones are resumed. `out/search.json` records what was tried.
    """
    for job in arms.values():
        if not (job.validation or job.hold_out):
            raise UsageError("`search` chooses on validation rows.", "Give `hold_out=0.1`, or `validation=FILE`.")
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    plans = {
        arm: [_apply_point(job, point) for point in points] for arm, job in arms.items()
    }  # an invalid value fails before anything is run
    record = SearchRecord(grid={name: tuple(values) for name, values in grid.items()}, seeds=seeds)
    for arm, jobs in plans.items():
        tried = [_run_trial(arm, job, point, out, backend, steps) for job, point in zip(jobs, points, strict=True)]
        best = min(range(len(tried)), key=lambda i: _validation_loss(tried[i]))
        if not math.isfinite(_validation_loss(tried[best])):
            raise BenchError(f"Every trial of {arm} diverged.", "Search lower learning rates.")
        for seed in range(jobs[best].seed + 1, jobs[best].seed + seeds):
            job = jobs[best].model_copy(update={"seed": seed})
            tried.append(_run_trial(arm, job, points[best], out, backend, steps))
        chosen = {**record.chosen, arm: tuple(trial.out for trial in tried if trial.settings == points[best])}
        record = record.model_copy(update={"trials": (*record.trials, *tried), "chosen": chosen})
        if is_first_process():
            write_whole(out / SEARCH_RECORD_FILE, record.model_dump_json(indent=1))
    return record


def _apply_point(job: FinetuneJob, point: Mapping[str, str]) -> FinetuneJob:
    """Return *job* with the settings of *point*."""
    try:
        return FinetuneJob.model_validate({**job.model_dump(), **point})
    except ValidationError as error:
        raise UsageError(f"`search` tries what cannot be: {format_validation_error(error, '`{}`'.format)}.") from error


def _run_trial(
    arm: str, job: FinetuneJob, point: dict[str, str], out: Path, backend: str, steps: ProgressDisplay
) -> Trial:
    name = ",".join(f"{field}={value}" for field, value in point.items()) or "as-given"
    folder = out / arm / name / f"seed{job.seed}"
    known: dict[str, Any] = {"arm": arm, "settings": point, "seed": job.seed, "out": str(folder)}
    try:
        found = finetune(job.model_copy(update={"out": str(folder)}), backend, steps)
    except DivergedError as error:
        return Trial(**known, validation_loss=None, error=error.problem)
    return Trial(**known, validation_loss=found.validation[-1]["loss"])


def _validation_loss(trial: Trial) -> float:
    return math.inf if trial.validation_loss is None else trial.validation_loss
