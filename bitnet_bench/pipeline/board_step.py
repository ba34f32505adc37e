"""The step that sums up a sweep: one table and one page over all of its runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, FiniteFloat, ValidationError

from bitnet_bench.errors import BenchError, format_validation_error
from bitnet_bench.files import is_file, write_whole
from bitnet_bench.json_files import read_json_object
from bitnet_bench.protocols import ProgressDisplay
from bitnet_bench.runs.folder import RECORD_FILE, load_record
from bitnet_bench.runs.records import Cost, RunRecord

BOARD_FILE = "board.html"
RESULTS_FILE = "results.json"
RESULTS_HINT = "Delete it, and run the sweep again: it is written anew."


class _Score(BaseModel):
    """What the table of a sweep shows of a score."""

    task: str
    value: FiniteFloat
    stderr: FiniteFloat | None
    lower_is_better: bool


class _Cost(BaseModel):
    """What the table shows of a measurement."""

    decode_tokens_per_s: FiniteFloat | None


class _Row(BaseModel):
    """A run in the results of a sweep."""

    run: str
    scores: tuple[_Score, ...]
    costs: tuple[_Cost, ...]


class _Results(BaseModel):
    """The results of a sweep, as far as they are read again."""

    runs: tuple[_Row, ...]


@dataclass(frozen=True)
class BoardRun:
    """A run of a sweep: where it is, and the values of the matrix that it was made with."""

    folder: Path
    values: dict[str, str]


@dataclass(frozen=True)
class BoardStep:
    """Step that writes the leaderboard page of a sweep, and its results as JSON."""

    runs: tuple[BoardRun, ...]
    out: Path
    results: Path

    title = "results"

    @property
    def is_done(self) -> bool:
        """True if both files are newer than every record."""
        files, records = (self.out, self.results), [run.folder / RECORD_FILE for run in self.runs]
        if not all(map(is_file, (*files, *records))):
            return False
        newest = max(record.stat().st_mtime_ns for record in records)
        return all(newest <= file.stat().st_mtime_ns for file in files)

    def run(self, steps: ProgressDisplay) -> None:
        """Write the page and the results of the runs that there are; a run that failed has a row without scores."""
        from bitnet_bench.reports.write_board import make_leaderboard, write_leaderboard

        rows = [_describe_run(run) for run in self.runs]
        folders = [run.folder for run, row in zip(self.runs, rows, strict=True) if row["scores"]]
        write_whole(self.results, json.dumps({"runs": rows}, ensure_ascii=False, indent=1) + "\n")
        if not folders:
            raise BenchError("No run of the sweep has a score.", "Look at the steps that failed.")
        with steps("compare twins") as progress:
            view = make_leaderboard(folders, progress=progress)
        write_leaderboard(view, self.out)


def read_results(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a sweep's results; BenchError if the file cannot be read."""
    fields = read_json_object(file, RESULTS_HINT)
    try:
        _Results.model_validate(fields)
    except ValidationError as error:
        raise BenchError(f"{file} cannot be read: {format_validation_error(error)}.", RESULTS_HINT) from error
    rows: list[dict[str, Any]] = fields["runs"]
    return rows


def _describe_run(run: BoardRun) -> dict[str, Any]:
    about = {"run": run.folder.name, "folder": str(run.folder), "values": run.values}
    try:
        record = load_record(run.folder)
    except BenchError as error:  # its step failed, and says so too
        return {**about, "model": None, "scores": [], "costs": [], "errors": {"": error.problem}}
    return {
        **about,
        "model": record.checkpoint.source,
        "weights": record.checkpoint.sha256,
        "precision": record.precision,
        "backend": record.backend,
        "scores": _list_scores(record),
        "costs": [_describe_cost(cost) for cost in record.costs],
        "errors": dict(record.errors),
        "seconds": record.seconds,
    }


def _list_scores(record: RunRecord) -> Sequence[dict[str, Any]]:
    fields = {"task", "metric", "value", "stderr", "n", "lower_is_better"}
    return [score.model_dump(mode="json", include=fields) for score in record.scores if score.primary]


def _describe_cost(cost: Cost) -> dict[str, Any]:
    speed = cost.metrics.get("decode_tokens_per_s")
    return {
        "backend": cost.backend,
        "precision": cost.precision,
        "weight_bytes": cost.resident_weight_bytes,
        "decode_tokens_per_s": speed.median if speed is not None and speed.kind == "measured" else None,
    }
