"""A run folder: record.json and samples/*.jsonl, written whole and read back with checks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from bitnet_bench.errors import BenchError
from bitnet_bench.files import disk_errors, write_whole
from bitnet_bench.records import SCHEMA_VERSION, Example, RunRecord

RECORD = "record.json"
LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process: BenchError if another one writes into it."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise BenchError(
                f"Another process is scoring into {folder}.", "Wait until it has finished, or give another --out."
            ) from error
    try:
        yield
    finally:
        lock.release()
        if [file.name for file in folder.iterdir()] == [LOCK]:  # nothing came of it
            (folder / LOCK).unlink()
            with suppress(OSError):  # something else has come into a folder around it
                for place in missing:
                    place.rmdir()


def save_samples(folder: Path, task: str, examples: Iterable[Example]) -> None:
    """Write the examples of one task."""
    text = "".join(example.model_dump_json() + "\n" for example in examples)
    write_whole(_samples_file(folder, task), text)


def save_record(folder: Path, record: RunRecord) -> None:
    """Write record.json; JSON knows no NaN, and neither does a record."""
    write_whole(folder / RECORD, json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")


def load_record(folder: Path) -> RunRecord:
    """Return the record of a run folder; BenchError says what is wrong with it."""
    file = folder / RECORD
    if not file.is_file():
        raise BenchError(
            f"{folder} is not a run: it has no {RECORD}.",
            "`bitnet-bench evaluate --out DIR` and `bitnet-bench measure --out DIR` write one.",
        )
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(fields, dict) and fields.get("schema_version") != SCHEMA_VERSION:
            raise BenchError(
                f"{file} has schema version {fields.get('schema_version')}, and this is version {SCHEMA_VERSION}.",
                "Read it with the bitnet-bench that wrote it, or run it again.",
            )
        return RunRecord.model_validate(fields)
    except (ValueError, ValidationError) as error:
        raise BenchError(f"{file} cannot be read: {str(error).splitlines()[0]}.", "Run it again.") from error


def load_samples(folder: Path, tasks: Sequence[str]) -> list[Example]:
    """Return the examples of *tasks* in order; a task without a file has none."""
    examples = []
    for task in tasks:
        file = _samples_file(folder, task)
        if file.is_file():
            try:
                lines = file.read_text(encoding="utf-8").splitlines()
                examples += [Example.model_validate_json(line) for line in lines if line]
            except ValidationError as error:
                raise BenchError(f"{file} cannot be read: {str(error).splitlines()[0]}.", "Run it again.") from error
    return examples


def _samples_file(folder: Path, task: str) -> Path:
    return folder / "samples" / f"{task.replace(':', '-')}.jsonl"
