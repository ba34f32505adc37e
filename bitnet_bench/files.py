"""Write files atomically, so that nobody sees half of one, and read texts of foreign origin within bounds.

Temporary files and folders have names that nobody can foresee and are created exclusively, so that no file of the user
is overwritten and no link is followed.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from errno import ENAMETOOLONG
from itertools import chain
from pathlib import Path
from typing import TextIO

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

MAX_DOCUMENT_BYTES = 256 << 20
"""Size up to which a document of foreign origin is read as a whole; the largest tokenizer.json has some 40 MB."""


def read_text(file: Path, hint: str, most_bytes: int = MAX_DOCUMENT_BYTES) -> str:
    """Return the text of *file*, which is UTF-8, without a byte-order mark.

    BenchError if it cannot be read, is larger than *most_bytes* or has another encoding; *hint* says what to do.
    """
    try:
        if not file.is_file():
            raise BenchError(f"There is no file {file}.", hint)
        with file.open("rb") as stream:
            data = stream.read(min(most_bytes, file.stat().st_size) + 1)  # memory for as much is taken at once
    except OSError as error:
        raise BenchError(f"{file} cannot be read: {error.strerror or error}.", hint) from error
    if len(data) > most_bytes:
        raise BenchError(f"{file} cannot be read: it has more than {most_bytes >> 10:,} KiB.", hint)
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        guess = guess_encoding(data)
        seems = f" It seems to be {guess}: save it as UTF-8." if guess else ""
        raise BenchError(
            f"{file} cannot be read: it is not UTF-8 ({error.reason} in line {line}, at byte {error.start}).{seems}",
            hint,
        ) from error


def is_file(path: Path) -> bool:
    """Return whether *path* is a file; False also for a name that no disk takes."""
    return exists(path) and path.is_file()


def exists(path: Path) -> bool:
    """Return whether there is something at *path*; False also for a name that no disk takes."""
    try:
        return path.exists()
    except OSError as error:
        if error.errno == ENAMETOOLONG:
            return False
        raise


def guess_encoding(data: bytes) -> str | None:
    """Return the encoding that *data* seems to have: UTF-16 by its mark, CP949 if all of it decodes, else None."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        data.decode("cp949")
    except UnicodeDecodeError:
        return None
    return "cp949"


def find_user_cache() -> Path:
    """Return the folder of this user for what can be computed again; BenchError if the user has no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bitnet-bench"
    except RuntimeError as error:
        raise BenchError("This user has no home folder.", "Set HOME, or XDG_CACHE_HOME to a folder.") from error


def write_whole(path: Path, text: str) -> None:
    """Write *text* to *path* as UTF-8 through a temporary file, fsync and rename."""
    with _open_whole(path) as stream:
        stream.write(text)


def write_lines_whole(path: Path, lines: Iterable[str]) -> int:
    """Write *lines* to *path* as `write_whole` does, one after another, and return how many they are."""
    count = 0
    lines = iter(lines)
    first = next(lines, None)  # whatever is wrong at the very beginning leaves no folder behind
    with _open_whole(path) as stream:
        for line in chain(() if first is None else (first,), lines):
            stream.write(line + "\n")
            count += 1
    return count


@contextlib.contextmanager
def _open_whole(path: Path) -> Iterator[TextIO]:
    with explain_disk_errors(path), replace_file(path) as stream:
        yield stream


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[TextIO]:
    """Open a temporary file that takes the place of *path* when the block ends without an error; OSError as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, descriptor = create_temporary_file(path)
    try:
        with open(descriptor, "w", encoding="utf-8") as stream:
            yield stream
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
