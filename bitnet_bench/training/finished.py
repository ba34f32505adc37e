"""Decide whether a finished fine-tuning is the one that a job requests, with the same base, rows and teacher."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bitnet_bench.checkpoints.identity import digest_files
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.data.stored_rows import StoredRows, store_rows
from bitnet_bench.errors import BenchError
from bitnet_bench.files import exists, is_file
from bitnet_bench.protocols import TrainingInputs
from bitnet_bench.runs.choices import ReadAs
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import ROWS_INPUT, Checkpoint, FinetuneRecord
from bitnet_bench.training.inputs import list_row_files, read_training_rows, split_validation_rows

if TYPE_CHECKING:
    from bitnet_bench.data.rows import Row

BASE, TEACHER, ROWS, VALIDATION = "base weights", "teacher weights", ROWS_INPUT, "validation rows"
Read = TypeVar("Read")
_log = logging.getLogger(__name__)


def digest_inputs(given: TrainingInputs) -> dict[str, str]:
    """Return the digests of everything that a training reads, by the names used in error messages."""
    return {**_of_base(given.base), **_of_teacher(given.teacher), **_of_rows(given.rows, given.validation)}


def digest_rows(rows: Iterable[Row]) -> str:
    """Return the sha256 of *rows* as read, in order; a field at its default adds nothing."""
    return store_rows(rows).digest


def check_same_inputs(job: FinetuneJob, record: FinetuneRecord) -> None:
    """Raise BenchError if the finished run *record* used another base, rows or teacher than *job* names now.

    Inputs that no longer exist, or that a record of an older version does not contain, cannot be compared; this is
    logged.
    """
    now, given = _find_inputs(job)
    then = record.inputs or {BASE: record.base.weights_id}
    if not record.inputs and given:
        now[ROWS], then = _encode(job, given), {**then, ROWS: record.data_sha256}
    differing = [name for name in now if name in then and now[name] != then[name]]
    if differing:
        raise BenchError(
            f"{job.out} holds a finished run with different {', '.join(differing)}.",
            "Give another `out`, or delete the folder.",
        )
    unknown = [name for name in _wanted(job) if name not in now or name not in then]
    if unknown:
        _log.warning(
            "%s holds a finished run, which is taken for this one. It could not be compared by: %s.",
            job.out,
            ", ".join(unknown),
        )


def _wanted(job: FinetuneJob) -> list[str]:
    """Return the names of the inputs that the result of *job* depends on."""
    validates = [VALIDATION] if job.validation or job.hold_out else []
    return [BASE, ROWS, *validates, *([TEACHER] if job.teacher else [])]


def _find_inputs(job: FinetuneJob) -> tuple[dict[str, str], TrainingInputs | None]:
    """Return the digests of the inputs that still exist, and the inputs of a training, or None if any is missing."""
    now: dict[str, str] = {}
    base, teacher = _open(job.model, job.tokenizer, job.read_as), _open(job.teacher) if job.teacher else None
    if base:
        now |= _of_base(base)
    if teacher:
        now |= _of_teacher(teacher)
    read = _read_rows(job)
    if read:
        now |= _of_rows(*read)
    return now, TrainingInputs(base, *read, teacher, 0) if base and read else None


def _open(model: str, tokenizer: str | None = None, read_as: ReadAs | None = None) -> Checkpoint | None:
    """Return the checkpoint *model*, or None if it no longer exists; a broken one is an error."""
    return _unless_gone(lambda: open_checkpoint(model, tokenizer, read_as), there=exists(Path(model)))


def _read_rows(job: FinetuneJob) -> tuple[StoredRows, StoredRows] | None:
    """Return training and validation rows, or None if one of their files no longer exists."""
    sources = [*job.data, *job.validation]
    files = list_row_files(sources)
    if not all(map(is_file, files)):
        return None
    return _unless_gone(
        lambda: split_validation_rows(read_training_rows(job)[0], job), there=len(files) == len(sources)
    )


def _unless_gone(read: Callable[[], Read], there: bool) -> Read | None:
    """Return the result of *read*; None if it fails because its source is not *there*, such as the hub."""
    try:
        return read()
    except BenchError as error:
        if there:
            raise
        _log.info("%s", error)
        return None


def _of_base(base: Checkpoint) -> dict[str, str]:
    return {BASE: base.weights_id, **digest_files(Path(base.path))}


def _of_teacher(teacher: Checkpoint | None) -> dict[str, str]:
    return {TEACHER: teacher.sha256} if teacher else {}


def _of_rows(rows: Iterable[Row], validation: Iterable[Row]) -> dict[str, str]:
    return {ROWS: digest_rows(rows), VALIDATION: digest_rows(validation)}


def _encode(job: FinetuneJob, given: TrainingInputs) -> str:
    """Return the digest of the training rows as tokens, the only one in records of older versions."""
    from bitnet_bench.checkpoints.loading import load_tokenizer
    from bitnet_bench.training.encoding import encode_rows

    encoded, _held_out = encode_rows(job, given, load_tokenizer(given.base))
    return encoded.sha256
