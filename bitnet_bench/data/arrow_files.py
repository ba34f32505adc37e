"""Keep tables of many rows in memory-mapped Arrow files, in the cache folder of `datasets`, for the next run."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from bitnet_bench.files import replace_file

if sys.platform != "win32":
    import fcntl

ABANDONED_SECONDS = 60.0
"""Age of an unfinished file that may be removed if no process holds it."""
MIN_CACHED_ROWS = 5_000
"""Minimum number of rows to keep in a file; fewer stay in memory, and are read again in about a second."""
_log = logging.getLogger(__name__)


def find_cache_folder() -> Path:
    """Return the folder of the files, which may not exist."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "bitnet_bench"


@cache
def digest_code() -> str:
    """Return a digest of the code that reads, renders and tokenizes rows: changed code shares no files."""
    found = hashlib.sha256()
    packages = (version(name) for name in ("tokenizers", "transformers", "jinja2"))
    about = (sys.version_info[:2], unicodedata.unidata_version, pa.__version__, *packages)
    found.update(repr(about).encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        found.update(file.read_bytes())
    return found.hexdigest()


class TableWriter:
    """Collects record batches of one table: few rows in memory, many in a file that takes its name at the end."""

    def __init__(self, schema: pa.Schema, keeps: bool = True) -> None:
        self._schema, self._keeps = schema, keeps
        self._held: list[pa.RecordBatch] = []
        self._file: Path | None = None
        self._writer: Any = None
        self._lock: int | None = None
        self.rows = 0

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._file is not None:
            with suppress(OSError):  # Windows keeps a file that is mapped
                self._file.unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)

    def add(self, batch: pa.RecordBatch, rows: int | None = None) -> None:
        """Add *batch*, which stands for *rows* rows, by default its own."""
        self.rows += batch.num_rows if rows is None else rows
        if self._keeps and self._writer is None and self.rows >= MIN_CACHED_ROWS:
            self._open()
        if self._writer is None:
            self._held.append(batch)
        else:
            self._writer.write_batch(batch)

    def _open(self) -> None:
        folder = find_cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        number, name = tempfile.mkstemp(".partial", "rows-", folder)
        if sys.platform == "win32":  # where no open file can be renamed
            os.close(number)
        else:
            self._lock = number
            _is_free(number)  # held until it is closed, by whatever end of this process
        self._file = Path(name)
        self._writer = pa.ipc.new_file(name, self._schema)
        for held in self._held:
            self._writer.write_batch(held)
        self._held = []

    def finish(self, name: str | None, notes: Mapping[str, Any]) -> pa.Table:
        """Return the table; if it is in a file, that is kept as *name*, with *notes* beside it, or not kept if None."""
        if self._writer is None or self._file is None:
            return pa.Table.from_batches(self._held, self._schema)
        self._writer.close()
        self._writer = None
        if name is None:  # the mapping outlives the name of the file
            return _map_file(self._file)
        with self._file.open("rb+") as stream:  # a name must not vouch for what a power cut takes
            os.fsync(stream.fileno())
        whole = find_cache_folder() / f"{name}.arrow"
        self._file.replace(whole)
        self._file = None
        _write_notes(whole.with_suffix(".json"), notes)
        return _map_file(whole)


def _remove_abandoned(folder: Path) -> None:
    """Remove unfinished files of processes that were killed: each may be as large as the data."""
    for file in folder.glob("rows-*.partial"):
        with suppress(OSError):  # another process may have removed it, or the file system has no locks
            if time.time() - file.stat().st_mtime < ABANDONED_SECONDS:
                continue
            number = os.open(file, os.O_RDWR)
            try:
                if _is_free(number):
                    file.unlink()
            finally:
                os.close(number)


def _is_free(number: int) -> bool:
    """Lock an open file, and return whether no other process has done so."""
    if sys.platform == "win32":  # which lets no open file be removed
        return True
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def open_table(name: str) -> tuple[pa.Table, dict[str, Any]] | None:
    """Return a kept table and its notes; None if there is none, or if its file is damaged."""
    whole = find_cache_folder() / f"{name}.arrow"
    try:
        return _map_file(whole), dict(json.loads(whole.with_suffix(".json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        if whole.exists():
            _log.info("%s is made again: %s", whole, error)
        return None


def _map_file(file: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def _write_notes(file: Path, notes: Any) -> None:
    """Write *notes* as JSON, whole or not at all; OSError if they cannot be written."""
    with replace_file(file) as stream:
        json.dump(notes, stream, ensure_ascii=False)


def write_or_hold(write: Callable[[bool], Any], what: str) -> Any:
    """Return *write* of True; if the cache folder cannot be written, the log says so, and of False, in memory."""
    try:
        return write(True)
    except OSError as error:  # a full disk, or a folder without write permission: a cache is optional
        _log.warning("%s are not kept: %s", what, error)
        return write(False)


def recall(name: str, is_worth_keeping: bool, compute: Callable[[], str]) -> str:
    """Return the text of *compute*, from its file if an earlier run has kept it there."""
    file = find_cache_folder() / f"{name}.json"
    if not is_worth_keeping:
        return compute()
    try:
        return str(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        found = compute()
    try:
        _write_notes(file, found)
    except OSError as error:
        _log.info("%s is not kept: %s", file, error)
    return found
