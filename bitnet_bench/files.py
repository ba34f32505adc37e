"""Write files atomically, so that nobody sees half of one, and read texts of foreign origin within bounds."""

from __future__ import annotations

import codecs
import contextlib
import os
import shutil
from collections.abc import Iterator
from errno import ENAMETOOLONG
from pathlib import Path

from bitnet_bench.errors import BenchError

PARTIAL = ".partial"
"""Folder inside the target folder that holds the files until all are complete."""
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
            data = stream.read(most_bytes + 1)
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
    try:
        return path.is_file()
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
