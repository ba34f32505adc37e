"""Write files whole: a reader, or a resumed run, never sees half of one."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from bitnet_bench.errors import BenchError

PARTIAL = ".partial"
"""The folder, inside the one that is written, in which files stand until all are whole."""
FULL_DISK_BYTES = 4 << 20
"""Less free space than this beside a failed write means that the disk is full."""


def write_whole(path: Path, text: str) -> None:
    """Write *text* to *path* as UTF-8 by a temporary name, fsync and rename."""
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


@contextlib.contextmanager
def write_folder_whole(out: Path, last: str) -> Iterator[Path]:
    """Give an empty folder to write into; on success move its files into *out*, the one named *last* at the end.

    A folder without its *last* file (a checkpoint without config.json) is not taken for a finished one.
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
    """Turn an operating-system error while writing below *path* into a sentence."""
    try:
        yield
    except BenchError:
        raise
    except Exception as error:
        # torch and safetensors report a full disk as errors of their own
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
