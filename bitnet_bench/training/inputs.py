"""Collect the rows that a job trains on, hold some out for validation, and check files of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.data.hub_rows import is_on_hub, open_source
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.select import find_data_directory, select_tasks
from bitnet_bench.files import is_file
from bitnet_bench.protocols import ProgressDisplay, no_display
from bitnet_bench.runs.jobs import FinetuneJob

if TYPE_CHECKING:
    from bitnet_bench.data.checking import FileFindings
    from bitnet_bench.data.rows import Row
    from bitnet_bench.data.stored_rows import StoredRows


def list_training_suites(data: Sequence[str]) -> list[str]:
    """Return the names or folders of the suites of those sources of *data* that are tasks (SUITE:TASK)."""
    return [source.partition(":")[0] for source in data if is_task(source)]


def is_task(source: str) -> bool:
    """Return whether *source* is a task (SUITE:TASK), and neither a file nor rows of the hub."""
    return ":" in source and not is_on_hub(source) and not is_file(Path(source))


def list_row_files(sources: Sequence[str]) -> list[Path]:
    """Return those of *sources* that name files, which may be missing: neither tasks nor rows of the hub."""
    return [Path(source) for source in sources if not (is_on_hub(source) or is_task(source))]


def read_training_rows(
    job: FinetuneJob, steps: ProgressDisplay = no_display, without_code: str = ""
) -> tuple[StoredRows, int]:
    """Return the rows of a job's data, from files, the hub, and the training splits of tasks (SUITE:TASK).

    The second value counts rows of tasks that were left out because the task's evaluation has the same ones.
    *without_code* is that of `TaskSettings`.
    """
    from bitnet_bench.data.rows import Row, Turn
    from bitnet_bench.data.stored_rows import join_rows, store_rows
    from bitnet_bench.evaluation.task_run import list_training_pairs
    from bitnet_bench.evaluation.tasks import TaskSettings, build_task

    rows: list[StoredRows] = []
    left_out = 0
    for source in job.data:
        if not is_task(source):
            rows.append(_read_source(source, job.limit, steps))
            continue
        suite, _, task = source.partition(":")
        directory = find_data_directory(Path(job.data_dir) if job.data_dir else None)
        setting = TaskSettings(directory, without_code=without_code)
        for owner, found in select_tasks([suite], [task]):
            pairs, overlap = list_training_pairs(build_task(owner, found, setting), job.limit)
            left_out += overlap
            rows.append(
                store_rows(
                    Row((Turn("user", prompt), Turn("model", response)), verbatim=True) for prompt, response in pairs
                )
            )
    return join_rows(rows), left_out


def _read_source(source: str, limit: int | None, steps: ProgressDisplay) -> StoredRows:
    from bitnet_bench.data.row_reading import read_row_file

    file = open_source(source)
    with steps(f"read {file.name}, MB") as progress:
        return read_row_file(file, limit, progress)


def inspect_data_files(
    files: Sequence[str | Path],
    model: str = FinetuneJob.default("model"),
    *,
    tokenizer: str | None = None,
    template: str = FinetuneJob.default("template"),
    max_length: int = FinetuneJob.default("max_length"),
    suites_named: Sequence[str] = (),
    data_dir: Path | None = None,
    steps: ProgressDisplay = no_display,
) -> list[FileFindings]:
    """Return what is wrong with the lines of training *files*, or rows of the hub, and their lengths by *model*.

    Rows that contain a text of 20 letters or more from a task of *suites_named* are also found.
    """
    from bitnet_bench.checkpoints.loading import load_tokenizer
    from bitnet_bench.data.checking import examine_rows
    from bitnet_bench.data.templates import check_template
    from bitnet_bench.evaluation.tasks import normalise_text

    check_template(template)
    asked = _read_test_texts(suites_named, data_dir) if suites_named else {}
    loaded = load_tokenizer(open_checkpoint(model, tokenizer))
    found = []
    with steps("check") as progress:
        for number, file in enumerate(files, 1):
            checked = examine_rows(open_source(file), loaded, template, max_length, asked, normalise_text)
            found.append(replace(checked, file=str(file)))
            progress(number, len(files))
    return found


def _read_test_texts(suites_named: Sequence[str], data_dir: Path | None) -> dict[str, str]:
    """Return every text in the test rows of suites, reduced to letters and digits, with its task."""
    from bitnet_bench.evaluation.tasks import TaskSettings, build_task, normalise_text

    directory = find_data_directory(data_dir)
    setting = TaskSettings(directory, without_code="`data check`")
    texts: dict[str, str] = {}
    for suite, task in select_tasks(suites_named, data_dir=directory):
        for doc in build_task(suite, task, setting).lm_task.test_docs():
            texts |= {
                normalise_text(text): f"{suite.name}:{task.name}" for text in doc.values() if isinstance(text, str)
            }
    return texts


def split_validation_rows(
    rows: Iterable[Row], job: FinetuneJob, steps: ProgressDisplay = no_display
) -> tuple[StoredRows, StoredRows]:
    """Return (training rows, validation rows): the latter are the job's validation files and a share of its rows.

    No training row equals a validation row. Which rows are held out depends on the rows alone, so all seeds, settings
    and twins are validated on the same rows.
    """
    import random

    import numpy as np

    from bitnet_bench.data.stored_rows import join_rows, store_rows

    rows = store_rows(rows)
    count = max(1, round(job.hold_out * len(rows))) if job.hold_out else 0
    chosen = np.array(sorted(random.Random(0).sample(range(len(rows)), count)), np.int64)
    files = [_read_source(source, None, steps) for source in job.validation]
    if not (files or count):
        return rows, store_rows([])
    validation = join_rows([*files, rows.select(chosen)])
    training = rows.without(validation)
    if not len(training):
        raise BenchError("Every training row is a validation row.", "Lower `hold_out`, or give other `validation`.")
    return training, validation
