"""Write files atomically: a reader, or a resumed run, never sees half of one."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from bitnet_bench.errors import BenchError

PARTIAL = ".partial"
"""Folder inside the target folder that holds the files until all are complete."""
FULL_DISK_BYTES = 4 << 20
"""Free space below which a failed write is reported as a full disk."""


def write_whole(path: Path, text: str) -> None:
    """Write *text* to *path* as UTF-8 through a temporary file, fsync and rename."""
    with explain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".tmp")
        try:
            with partial.open("w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def write_lines_whole(path: Path, lines: Iterable[str]) -> int:
    """Write *lines* to *path* as `write_whole` does, one after another, and return how many they are."""
    count = 0
    lines = iter(lines)
    first = next(lines, None)  # whatever is wrong at the very beginning leaves no folder behind
    with explain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".tmp")
        try:
            with partial.open("w", encoding="utf-8") as stream:
                for line in chain(() if first is None else (first,), lines):
                    stream.write(line + "\n")
                    count += 1
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return count


@contextlib.contextmanager
def write_folder_whole(out: Path, last: str) -> Iterator[Path]:
    """Yield an empty folder to write into; on success move its files into *out*, the one named *last* at the end.

    A folder without its *last* file (a checkpoint without config.json) does not count as finished.
    """
    partial = out / PARTIAL
    with explain_disk_errors(out):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            (out / last).unlink(missing_ok=True)  # an old mark must not vouch for new files
            for file in sorted(partial.iterdir(), key=lambda f: f.name == last):
                file.replace(out / file.name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Raise BenchError instead of an operating-system error while writing below *path*."""
    try:
        yield
    except BenchError:
        raise
    except Exception as error:
        # torch and safetensors report a full disk with their own errors
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
        elif _count_free_bytes(path) < FULL_DISK_BYTES:
            reason = "the disk is full"
        else:
            raise
        raise BenchError(
            f"Cannot write {path}: {reason}.",
            "Free some space or choose another folder as `out`; what was finished before is kept.",
        ) from error


def _count_free_bytes(path: Path) -> int:
    there = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    return shutil.disk_usage(there).free
