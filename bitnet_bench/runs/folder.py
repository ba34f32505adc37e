"""Write and read a run folder, record.json and samples/*.jsonl: files are written whole, and checked when read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from bitnet_bench.errors import BenchError, format_validation_error
from bitnet_bench.files import explain_disk_errors, is_file, read_text, write_whole
from bitnet_bench.json_files import read_json_object
from bitnet_bench.runs.records import SCHEMA_VERSION, Example, FinetuneRecord, RunRecord

RUN_AGAIN_HINT = "Run it again."
TRAIN_AGAIN_HINT = "Delete it and train again, or get the checkpoint again."
RECORD_FILE = "record.json"
TRAINING_FILE = "finetune.json"
"""Name of a fine-tuning's record, which is next to the checkpoint that it made."""
LOCK_FILE = ".lock"
SEAL_FIELD = "sha256"
"""Field of record.json that holds the digest of all others."""


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a run folder for this process; BenchError if another process writes into it."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    with explain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise BenchError(
                f"Another process writes into {folder}.", "Wait until it has finished, or give another `out`."
            ) from error
    try:
        yield
    finally:
        lock.release()
        if [file.name for file in folder.iterdir()] == [LOCK_FILE]:  # nothing else was written
            (folder / LOCK_FILE).unlink()
            with suppress(OSError):  # another file may have been added in the meantime
                for place in missing:
                    place.rmdir()


def save_samples(folder: Path, task: str, examples: Iterable[Example]) -> str:
    """Write the examples of one task and return the sha256 of their file, which belongs in the record."""
    text = "".join(example.model_dump_json() + "\n" for example in examples)
    write_whole(samples_path(folder, task), text)
    return hashlib.sha256(text.encode()).hexdigest()


def save_record(folder: Path, record: RunRecord) -> None:
    """Write record.json, sealed by a digest; neither JSON nor a record allows NaN."""
    fields = record.model_dump(mode="json")
    text = json.dumps({**fields, SEAL_FIELD: compute_seal(fields)}, indent=1, ensure_ascii=False)
    write_whole(folder / RECORD_FILE, text + "\n")


def compute_seal(fields: Any) -> str:
    """Return the digest of a record's fields, which no longer matches after an edit by hand."""
    text = json.dumps({k: v for k, v in fields.items() if k != SEAL_FIELD}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def load_record(folder: Path) -> RunRecord:
    """Return the record of a run folder; BenchError says what is wrong with it."""
    try:
        fields = load_record_fields(folder)
        is_sealed = fields.pop(SEAL_FIELD, None) is not None
        record = RunRecord.model_validate(fields)
        return record if is_sealed else record.model_copy(update={"once_unsealed": True})
    except ValidationError as error:
        raise BenchError(
            f"{folder / RECORD_FILE} cannot be read: {format_validation_error(error)}.", RUN_AGAIN_HINT
        ) from error


def load_record_to_extend(folder: Path) -> RunRecord:
    """Return the record of a run folder that will be extended, written and sealed again.

    BenchError if it was edited: a new seal would hide that. A record of a version that made no seals may be extended,
    and is marked from then on (`once_unsealed`).
    """
    fields = load_record_fields(folder)
    written = fields.pop(SEAL_FIELD, None)
    if written is not None and written != compute_seal(fields):
        raise BenchError(
            f"{folder / RECORD_FILE} was edited after it was written: its checksum differs.",
            "Give another `out`, or put the record back as it was.",
        )
    return load_record(folder)


def load_training_record(folder: Path) -> FinetuneRecord | None:
    """Return the record of the training that made the checkpoint in *folder*; None if there is none.

    BenchError says what is wrong with it.
    """
    file = folder / TRAINING_FILE
    if not is_file(file):
        return None
    try:
        return FinetuneRecord.model_validate_json(read_text(file, TRAIN_AGAIN_HINT))
    except ValidationError as error:
        raise BenchError(f"{file} cannot be read: {format_validation_error(error)}.", TRAIN_AGAIN_HINT) from error


def load_record_fields(folder: Path) -> dict[str, Any]:
    """Return the fields of a record.json; BenchError if it is missing, invalid, or of another schema version."""
    file = folder / RECORD_FILE
    if not is_file(file):
        raise BenchError(
            f"{folder} is not a run: it has no {RECORD_FILE}.",
            "`bitnet-bench evaluate --out DIR` and `bitnet-bench measure --out DIR` write one.",
        )
    fields = read_json_object(file, RUN_AGAIN_HINT)
    if fields.get("schema_version") != SCHEMA_VERSION:
        raise BenchError(
            f"{file} has schema version {fields.get('schema_version')}, and this is version {SCHEMA_VERSION}.",
            "Read it with the bitnet-bench that wrote it, or run it again.",
        )
    return fields


def load_samples(folder: Path, tasks: Sequence[str]) -> list[Example]:
    """Return the examples of *tasks* in order; a task without a file has none."""
    examples: list[Example] = []
    for task in tasks:
        file = find_samples(folder, task)
        if file is not None:
            examples += _read_examples(file)
    return examples


def _read_examples(file: Path) -> Iterator[Example]:
    try:
        lines = file.read_bytes().split(b"\n")  # not splitlines: an output may hold U+2028
    except OSError as error:
        raise BenchError(f"{file} cannot be read: {error.strerror}.", RUN_AGAIN_HINT) from error
    for number, line in enumerate(lines, start=1):
        if line:
            try:
                yield Example.model_validate_json(line)
            except ValidationError as error:
                raise BenchError(
                    f"Line {number} of {file} cannot be read: {format_validation_error(error)}.", RUN_AGAIN_HINT
                ) from error


def samples_path(folder: Path, task: str) -> Path:
    """Return the file of a task's examples; BenchError if its name, or a link, leads out of the run folder."""
    return resolve_inside(folder, f"samples/{task.replace(':', '-')}.jsonl")


def find_samples(folder: Path, task: str) -> Path | None:
    """Return the file of a task's examples if there is one in the run folder."""
    try:
        file = samples_path(folder, task)
    except BenchError:
        return None
    return file if is_file(file) else None


def resolve_inside(folder: Path, name: str) -> Path:
    """Return the path of *name* in *folder*; BenchError if it is outside, directly or through a link.

    Names come from records, which may be somebody else's.
    """
    path = folder / name
    try:
        inside = ".." not in Path(name).parts and path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # a loop of links, or a NUL in the name
        inside = False
    if not inside:
        raise BenchError(f"{name!r} is not in the folder {folder}.", "Use a record that was not changed.")
    return path
