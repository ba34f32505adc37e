"""The folder of a run that is under way: whose it is, and the steps that were saved whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitnet_bench.errors import BenchError
from bitnet_bench.files import write_whole
from bitnet_bench.runs.folder import LOCK_FILE
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import FinetuneRecord

CLAIM_FILE = "job.json"
STATE_FOLDER = ".trainer"
"""Where a run keeps what it needs to go on; removed when it is finished."""
FORMER_DEFAULT_RATE, FORMER_METHOD_RATES = 1e-3, {"dpo": 1e-4}
"""The defaults of runs that were begun before `training.rates`."""
COMPLETE_FILE = "complete"
"""A saved step without this file was cut off while it was written."""


def read_started_settings(out: Path) -> dict[str, Any]:
    """Return what the unfinished run in *out* was claimed with, notes included; {} if there is none."""
    mark = out / STATE_FOLDER / CLAIM_FILE
    return dict(json.loads(mark.read_text(encoding="utf-8"))) if mark.is_file() else {}


def recall_choices(job: FinetuneJob, finished: FinetuneRecord | None) -> FinetuneJob:
    """Return *job* with what it leaves to us as the run in its folder chose it; as it is if there is no such run.

    A resumed run would otherwise train with another table of rates, or with the batch that fits today's free memory.
    *finished*: the record in the folder, where the run has ended. A run from before there was a table had the one
    default of then.
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
    return job.model_copy(update=recalled)


def claim_run_folder(out: Path, settings: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
    """Take *out* for a run of *settings*, or refuse: it may hold the same run unfinished, and nothing else.

    *notes* are kept with them and not compared.
    """
    theirs = read_started_settings(out)
    if theirs:
        differing = [name for name in settings if theirs.get(name) != settings[name]]
        if differing:
            raise BenchError(
                f"{out} holds an unfinished run with another {', '.join(differing)}.",
                "Give the settings it was started with to go on, another `out`, or delete the folder.",
            )
        return
    refuse_foreign(out)
    write_whole(out / STATE_FOLDER / CLAIM_FILE, json.dumps({**settings, **notes}, ensure_ascii=False, indent=1))


def refuse_foreign(out: Path) -> None:
    """BenchError if *out* holds files that are neither of a run under way nor of one that was killed at its start."""
    if out.is_dir() and not read_started_settings(out) and not all(map(_is_of_claiming, out.iterdir())):
        raise BenchError(f"{out} is not empty.", "Give another `out`, or delete the folder.")


def _is_of_claiming(path: Path) -> bool:
    """Return whether *path* in a run folder is no more than what claiming it writes, whole or cut off by a kill."""
    if path.name == STATE_FOLDER and path.is_dir():
        return all(file.name.startswith(CLAIM_FILE) for file in path.iterdir())
    return path.name == LOCK_FILE


def find_last_state(state: Path) -> Path | None:
    """Return the newest whole saved step, after removing those that were cut off."""
    saved = sorted(state.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[-1]))
    for folder in saved:
        if not (folder / COMPLETE_FILE).exists():
            shutil.rmtree(folder)
    whole = [folder for folder in saved if folder.exists()]
    return whole[-1] if whole else None
