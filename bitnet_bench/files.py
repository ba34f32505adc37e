"""Write files atomically: a reader, or a resumed run, never sees half of one.

Temporary files and folders have names that nobody can foresee and are created exclusively, so that no file of the user
is overwritten and no link is followed.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from bitnet_bench.errors import BenchError

PARTIAL_NAME = re.compile(r"\.partial-[0-9a-f]{16}")
"""Name of a folder that holds files until all are complete."""
PARTIAL_LOCK, PARTIAL_PURPOSE, PARTIAL_FILES = "lock", "purpose", "files"
"""Contents of such a folder: the lock of the process that fills it, what it is for, and the files."""
LONGEST_NAME_BYTES = 200
"""Longest file name that the name of its temporary file repeats."""
FULL_DISK_BYTES = 4 << 20
"""Free space below which a failed write is reported as a full disk."""


def write_whole(path: Path, text: str) -> None:
    """Write *text* to *path* as UTF-8 through a temporary file, fsync and rename."""
    with explain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, descriptor = create_temporary_file(path)
        try:
            with open(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def create_temporary_file(path: Path) -> tuple[Path, int]:
    """Create a file next to *path* under a name that did not exist, and return it with its open descriptor."""
    stem = path.name if len(os.fsencode(path.name)) <= LONGEST_NAME_BYTES else ""
    partial = path.with_name(f"{stem}.{secrets.token_hex(8)}.tmp")
    # O_EXCL fails where anything has that name, a link included
    return partial, os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)


@contextlib.contextmanager
def write_folder_whole(out: Path, last: str) -> Iterator[Path]:
    """Yield an empty folder to write into; on success move its files into *out*, the one named *last* at the end.

    A folder without its *last* file (a checkpoint without config.json) does not count as finished.
    """
    with explain_disk_errors(out), open_partial_folder(out) as partial:
        partial.mkdir()
        yield partial
        (out / last).unlink(missing_ok=True)  # an old mark must not vouch for new files
        for file in sorted(partial.iterdir(), key=lambda f: f.name == last):
            file.replace(out / file.name)


@contextlib.contextmanager
def open_partial_folder(parent: Path, purpose: str = "") -> Iterator[Path]:
    """Yield the path of a folder, not created yet, in a new folder in *parent* that is deleted at the end.

    What a killed process left of a folder without a purpose is deleted first; what it left of one with the same
    *purpose* is yielded instead, with its files. BenchError if a process is filling it.
    """
    parent.mkdir(parents=True, exist_ok=True)
    partial = None
    for found in find_partial_folders(parent):
        if _read_purpose(found) != purpose:
            continue
        if purpose:
            partial = found
            break
        with _lock_partial_folder(found) as is_left_over:
            if is_left_over:
                shutil.rmtree(found, ignore_errors=True)
    if partial is None:
        partial = parent / f".partial-{secrets.token_hex(8)}"
        partial.mkdir()
        if purpose:
            (partial / PARTIAL_PURPOSE).write_text(purpose, encoding="utf-8")
    with _lock_partial_folder(partial) as is_ours:
        if not is_ours:
            raise BenchError(f"Another process writes into {partial}.", "Wait until it has finished.")
        try:
            yield partial / PARTIAL_FILES
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def find_partial_folders(parent: Path) -> list[Path]:
    """Return the folders in *parent* that `open_partial_folder` made, finished with or not."""
    if not parent.is_dir():
        return []
    named = [entry for entry in parent.iterdir() if PARTIAL_NAME.fullmatch(entry.name)]
    return [entry for entry in named if not entry.is_symlink() and (entry / PARTIAL_LOCK).is_file()]


def _read_purpose(partial: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return (partial / PARTIAL_PURPOSE).read_text(encoding="utf-8")
    return ""


@contextlib.contextmanager
def _lock_partial_folder(partial: Path) -> Iterator[bool]:
    """Lock *partial* while the block runs, and yield whether no other process has locked it."""
    lock = FileLock(partial / PARTIAL_LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


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
