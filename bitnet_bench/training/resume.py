"""Claim the folder of an unfinished run, and find its settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bitnet_bench.errors import BenchError, format_validation_error
from bitnet_bench.files import write_whole
from bitnet_bench.json_files import read_json_object
from bitnet_bench.runs.folder import LOCK_FILE
from bitnet_bench.runs.jobs import BatchSize, FinetuneJob
from bitnet_bench.runs.records import FinetuneRecord
from bitnet_bench.training.saved_steps import STATE_FOLDER

CLAIM_FILE = "job.json"
DELETE_HINT = "Give another `out`, or delete the folder."
FORMER_DEFAULT_RATE, FORMER_METHOD_RATES = 1e-3, {"dpo": 1e-4}
"""Default learning rates of runs that were started before the table in `bitnet_bench.training.rates` existed."""


class _StartedSettings(BaseModel):
    """The settings of an unfinished run that are used here; others are compared only."""

    model_config = ConfigDict(strict=True, extra="ignore")

    batch_size: BatchSize
    gradient_accumulation: BatchSize
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    learning_rate_source: str | None = None


def read_started_settings(out: Path) -> dict[str, Any]:
    """Return the settings and notes with which the unfinished run in *out* was claimed; {} if there is none."""
    mark = out / STATE_FOLDER / CLAIM_FILE
    if not mark.is_file():
        return {}
    settings = read_json_object(mark, DELETE_HINT)
    try:
        _StartedSettings.model_validate(settings)
    except ValidationError as error:
        raise BenchError(f"{mark} is damaged: {format_validation_error(error)}.", DELETE_HINT) from error
    return settings


def recall_choices(job: FinetuneJob, finished: FinetuneRecord | None) -> FinetuneJob:
    """Return *job* with the automatic choices of the run in its folder; unchanged if there is no such run.

    A resumed run would otherwise train with another table of rates, or with the batch that fits today's free memory.
    *finished*: the record in the folder, if the run has ended. A run from before the table of rates had
    `FORMER_DEFAULT_RATE` or the rate of its method in `FORMER_METHOD_RATES`.
    """
    started = finished.job.model_dump(mode="json") if finished else read_started_settings(Path(job.out))
    has_table = finished.first_loss is not None if finished else "learning_rate_source" in started
    had_default = not has_table and started.get("learning_rate") == FORMER_METHOD_RATES.get(
        job.method, FORMER_DEFAULT_RATE
    )
    recalled: dict[str, Any] = {}
    if job.learning_rate is None and started and (started.get("learning_rate_source") or had_default):
        recalled = {name: started.get(name) for name in ("learning_rate", "learning_rate_source")}
    if job.batch_size == "auto" and started:
        sizes = {name: started[name] for name in ("batch_size", "gradient_accumulation")}
        if sizes["batch_size"] * sizes["gradient_accumulation"] == job.sequences * job.gradient_accumulation:
            recalled |= sizes
    if job.packing is None and started.get("packing") is False:  # the default before rows of a step were joined
        recalled["packing"] = False
    return job.model_copy(update=recalled)


def claim_run_folder(out: Path, settings: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
    """Claim *out* for a run of *settings*; raise BenchError if it holds anything but the same run, unfinished.

    *notes* are stored with the settings but not compared.
    """
    theirs = read_started_settings(out)
    if theirs:
        differing = [name for name in settings if theirs.get(name) != settings[name]]
        if differing:
            named = (f"`{name}`" if name.isidentifier() else name for name in differing)
            raise BenchError(
                f"{out} holds an unfinished run with another {', '.join(named)}.",
                "Give the settings it was started with to go on, another `out`, or delete the folder.",
            )
        return
    check_run_folder(out)
    write_whole(out / STATE_FOLDER / CLAIM_FILE, json.dumps({**settings, **notes}, ensure_ascii=False, indent=1))


def check_run_folder(out: Path) -> None:
    """Raise BenchError if *out* holds files other than those of an unfinished run or of claiming the folder."""
    if out.is_dir() and not read_started_settings(out) and not all(map(_is_of_claiming, out.iterdir())):
        raise BenchError(f"{out} is not empty.", "Give another `out`, or delete the folder.")


def _is_of_claiming(path: Path) -> bool:
    """Return whether *path* in a run folder is written by claiming it, completely or cut off by a kill."""
    if path.name == STATE_FOLDER and path.is_dir():
        return all(file.name.startswith(CLAIM_FILE) for file in path.iterdir())
    return path.name == LOCK_FILE
