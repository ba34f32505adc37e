"""Read files of rows by all cores into stored rows, once: the next run finds a file that has not changed."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from bitnet_bench.data.arrow_files import TableWriter, digest_code, find_cache_folder, open_table, write_or_hold
from bitnet_bench.data.jsonl import BadRowError, parse_nfc_json, read_numbered_lines
from bitnet_bench.data.many_processes import map_in_processes
from bitnet_bench.data.rows import Row, check_read_rows, check_rows_file, make_row_error, read_value
from bitnet_bench.data.shapes import UnknownShapeError
from bitnet_bench.data.stored_rows import ROWS_AT_ONCE, ROWS_SCHEMA, RowBatch, RowTable, StoredRows, pack_rows
from bitnet_bench.errors import BenchError
from bitnet_bench.protocols import Progress, no_progress

CHARACTERS_AT_ONCE = 1 << 20
"""Characters of rows that a process takes at once, at most, unless a single row has more."""
HASHED_AT_ONCE = 1 << 22
MEGABYTE = 1_000_000
NumberedLine = tuple[int, str]


class WatchedFile:
    """A file that is read once: the digest of what was read, and whether it stayed the same meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = hashlib.sha256()
        self.bytes = 0
        self._before = self._describe()

    @property
    def size(self) -> int:
        """Return the number of bytes of the whole file."""
        return self._before[0]

    def take(self, data: bytes) -> None:
        """Add the next bytes of the file."""
        self._digest.update(data)
        self.bytes += len(data)

    def finish(self) -> str:
        """Return the digest; BenchError if the file changed since this object was made."""
        if self._describe() != self._before:
            raise BenchError(f"{self.path} changed while it was read.", "Start again when nothing writes it any more.")
        return self._digest.hexdigest()

    def _describe(self) -> tuple[int, int, int]:
        found = self.path.stat()
        return found.st_size, found.st_mtime_ns, found.st_ino


@dataclass(frozen=True)
class _ParsedBatch:
    packed: RowBatch
    unread: Counter[str]
    bad: tuple[int, str, bool] | None
    """Line number of the first bad row, what is wrong, and whether it has no known shape; rows after it are not in the
    batch."""


def read_row_file(path: Path, limit: int | None = None, progress: Progress = no_progress) -> StoredRows:
    """Return the rows of a file, or the first *limit* of them, as `read_rows` does; a file is parsed once.

    Rows of many are kept in the cache folder under the digest of the file's bytes.
    """
    check_rows_file(path)
    try:
        kept = None if limit is not None else _find_kept(path)
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}.", "Check the file and its permissions.") from error
    if kept is None:
        kept = write_or_hold(lambda keeps: _parse_file(path, limit, progress, keeps), f"Rows of {path.name}")
    table, unread = kept
    check_read_rows(path, len(table), unread)
    return StoredRows([table])


def _name_table(path: Path, size: int, digest: str) -> str:
    return f"rows-{size}{path.suffix.lower()}-{digest[:32]}-{digest_code()[:16]}"


def _find_kept(path: Path) -> tuple[RowTable, dict[str, int]] | None:
    """Return the table of an earlier run; the file is digested only if there is one of its size."""
    watched = WatchedFile(path)
    if not any(find_cache_folder().glob(_name_table(path, watched.size, "?" * 32) + ".arrow")):
        return None
    with path.open("rb") as stream:
        while data := stream.read(HASHED_AT_ONCE):
            watched.take(data)
    found = open_table(_name_table(path, watched.size, watched.finish()))
    if found is None:
        return None
    table, notes = found
    return RowTable(table, notes["digest"]), notes["unread"]


def _parse_file(path: Path, limit: int | None, progress: Progress, keeps: bool) -> tuple[RowTable, dict[str, int]]:
    watched, digest, unread = WatchedFile(path), hashlib.sha256(), Counter[str]()
    lines = islice(read_numbered_lines(path, take=watched.take), limit)
    report = report_rate(progress)
    with TableWriter(ROWS_SCHEMA, keeps) as writer:
        for parsed in map_in_processes(_parse_batch, cut_batches(lines)):
            digest.update(parsed.packed.digested)
            writer.add(parsed.packed.stored)
            unread.update(parsed.unread)
            if parsed.bad is not None:
                number, why, is_unknown = parsed.bad
                raise make_row_error(path, number, why, is_unknown and not writer.rows)
            report(writer.rows, watched.bytes // MEGABYTE, watched.size // MEGABYTE)
        name = _name_table(path, watched.size, watched.finish())
        notes = {"digest": digest.hexdigest(), "unread": dict(unread)}
        table = writer.finish(name if limit is None else None, notes)
    return RowTable(table, digest.hexdigest()), dict(unread)


def cut_batches(lines: Iterable[NumberedLine]) -> Iterator[list[NumberedLine]]:
    """Yield *lines* in lists of a bounded number of rows and characters."""
    batch: list[NumberedLine] = []
    characters = 0
    for line in lines:
        batch.append(line)
        characters += len(line[1])
        if len(batch) == ROWS_AT_ONCE or characters > CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _parse_batch(lines: list[NumberedLine]) -> _ParsedBatch:
    rows: list[Row] = []
    unread: Counter[str] = Counter()
    bad = None
    for number, line in lines:
        try:
            row, names = read_value(parse_nfc_json(line))
        except BadRowError as error:
            bad = number, str(error), isinstance(error, UnknownShapeError)
            break
        rows.append(row)
        unread.update(names)
    return _ParsedBatch(pack_rows(rows), unread, bad)


def report_rate(
    progress: Progress, what: str = "rows", clock: Callable[[], float] = time.monotonic
) -> Callable[[int, int, int], Any]:
    """Return a function of (rows so far, units done, units in all) that reports them with the rows per second."""
    began = clock()

    def report(rows: int, done: int, total: int) -> None:
        progress(done, total, f"{rows:,} {what}, {rows / max(clock() - began, 1e-3):,.0f} rows/s")

    return report
