"""Sequences of rows whose texts are in Arrow tables: a row in memory is its hash, its kind and its place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from typing import Any, overload

import numpy as np
import pyarrow as pa

from bitnet_bench.data.arrow_files import MIN_CACHED_ROWS, digest_code, recall
from bitnet_bench.data.many_processes import map_in_processes
from bitnet_bench.data.row_text import HASH_BYTES, decode_row, digest_line, encode_row, find_kind, hash_line
from bitnet_bench.data.rows import Row

ROWS_SCHEMA = pa.schema({"text": pa.string(), "hash": pa.binary(HASH_BYTES), "kind": pa.uint8()})
ROWS_AT_ONCE = 1024
"""Rows that a process takes at once."""


@dataclass(frozen=True)
class RowBatch:
    """Rows ready to be stored, and the bytes of their digest."""

    stored: pa.RecordBatch
    digested: bytes


def pack_rows(rows: Sequence[Row]) -> RowBatch:
    """Return *rows* as a batch of a table."""
    lines = [digest_line(row) for row in rows]
    columns = [
        pa.array([encode_row(row) for row in rows], pa.string()),
        pa.array([hash_line(line) for line in lines], pa.binary(HASH_BYTES)),
        pa.array([find_kind(row) for row in rows], pa.uint8()),
    ]
    return RowBatch(pa.record_batch(columns, schema=ROWS_SCHEMA), b"".join(lines))


class RowTable:
    """The rows of one source."""

    def __init__(self, table: pa.Table, digest: str) -> None:
        self.digest = digest
        """Sha256 of the rows in order, of the lines that `digest_line` returns."""
        self._texts = table["text"].chunks
        self._starts = np.cumsum([0, *map(len, self._texts)])
        hashes = [np.frombuffer(_fixed_bytes(chunk), f"V{HASH_BYTES}") for chunk in table["hash"].chunks]
        self.hashes: np.ndarray = np.concatenate(hashes) if hashes else np.empty(0, f"V{HASH_BYTES}")
        self.kinds: np.ndarray = table["kind"].to_numpy()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def list_batches(self) -> list[tuple[int, int]]:
        """Return (first place, place after the last) of rows that were stored together, of a bounded size."""
        return [(a, b) for a, b in pairwise(self._starts.tolist()) if a < b]

    def read_texts(self, places: np.ndarray) -> list[str]:
        """Return the texts at *places*, which are sorted or not."""
        chunks = np.searchsorted(self._starts, places, side="right") - 1
        within = places - self._starts[chunks]
        return [self._texts[c][i].as_py() for c, i in zip(chunks.tolist(), within.tolist(), strict=True)]

    def read_rows(self, start: int, stop: int) -> list[Row]:
        """Return the rows from *start* on, up to *stop*."""
        return [decode_row(text) for text in self.read_texts(np.arange(start, stop))]


def _fixed_bytes(chunk: Any) -> memoryview:
    """Return the bytes of a column of hashes."""
    values = memoryview(chunk.buffers()[1])
    return values[chunk.offset * HASH_BYTES : (chunk.offset + len(chunk)) * HASH_BYTES]


class StoredRows(Sequence[Row]):
    """Rows of one or several tables, or those of them that *places* selects, in that order."""

    def __init__(self, tables: Sequence[RowTable], places: np.ndarray | None = None) -> None:
        self.tables = tuple(tables)
        self._starts = np.cumsum([0, *map(len, self.tables)])
        self._selects = places is not None
        self.places = np.arange(self._starts[-1]) if places is None else places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> StoredRows: ...
    def __getitem__(self, at: int | slice) -> Row | StoredRows:
        """Return one row, or those of a slice."""
        if isinstance(at, slice):
            return self.select(np.arange(len(self))[at])
        return next(self._read(self.places[[at]]))

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield from self._read(self.places[start : start + ROWS_AT_ONCE])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def _read(self, places: np.ndarray) -> Iterator[Row]:
        owners = np.searchsorted(self._starts, places, side="right") - 1
        texts: np.ndarray = np.empty(len(places), object)
        for owner in np.unique(owners).tolist():
            of_owner = owners == owner
            texts[of_owner] = self.tables[owner].read_texts(places[of_owner] - self._starts[owner])
        return map(decode_row, texts)

    def select(self, which: np.ndarray) -> StoredRows:
        """Return the rows at the positions *which* of this sequence."""
        return StoredRows(self.tables, self.places[which])

    @cached_property
    def hashes(self) -> np.ndarray:
        """Return the hash of each row."""
        return self._gather([table.hashes for table in self.tables])

    @cached_property
    def kinds(self) -> np.ndarray:
        """Return the kind of each row, as `find_kind` does."""
        return self._gather([table.kinds for table in self.tables])

    def _gather(self, columns: Sequence[np.ndarray]) -> np.ndarray:
        found: np.ndarray = np.concatenate(columns)[self.places]
        return found

    def without(self, others: StoredRows) -> StoredRows:
        """Return the rows that equal none of *others*."""
        unwanted = set(others.hashes.tolist())
        kept = [
            hashed not in unwanted
            for start in range(0, len(self), ROWS_AT_ONCE)
            for hashed in self.hashes[start : start + ROWS_AT_ONCE].tolist()
        ]
        return self.select(np.flatnonzero(kept))

    def list_one_of_each_kind(self) -> list[Row]:
        """Return the first row of each kind that occurs."""
        return [self[int(at)] for at in sorted(np.unique(self.kinds, return_index=True)[1])]

    @cached_property
    def digest(self) -> str:
        """Return the sha256 of the rows in order; a field at its default adds nothing."""
        if len(self.tables) == 1 and not self._selects:
            return self.tables[0].digest
        about = [table.digest for table in self.tables]
        which = hashlib.sha256(repr((about, digest_code())).encode() + self.places.tobytes()).hexdigest()
        return recall(f"digest-{which}", len(self) >= MIN_CACHED_ROWS, self._compute_digest)

    def _compute_digest(self) -> str:
        found = hashlib.sha256()

        def lines(start: int) -> bytes:
            return b"".join(map(digest_line, self._read(self.places[start : start + ROWS_AT_ONCE])))

        for some in map_in_processes(lines, range(0, len(self), ROWS_AT_ONCE)):
            found.update(some)
        return found.hexdigest()


def store_rows(rows: Iterable[Row]) -> StoredRows:
    """Return *rows* as stored rows, in memory; rows that are stored stay as they are."""
    if isinstance(rows, StoredRows):
        return rows
    found, batches = hashlib.sha256(), []
    waiting = iter(rows)
    while some := list(islice(waiting, ROWS_AT_ONCE)):
        batch = pack_rows(some)
        found.update(batch.digested)
        batches.append(batch.stored)
    return StoredRows([RowTable(pa.Table.from_batches(batches, ROWS_SCHEMA), found.hexdigest())])


def join_rows(parts: Iterable[StoredRows]) -> StoredRows:
    """Return the rows of several sources, one after another."""
    parts = list(parts)
    if len(parts) == 1:
        return parts[0]
    sizes = np.cumsum([0, *(sum(map(len, part.tables)) for part in parts)])
    places = [part.places + start for part, start in zip(parts, sizes[:-1].tolist(), strict=True)]
    tables = [table for part in parts for table in part.tables]
    return StoredRows(tables, np.concatenate(places) if places else None)
