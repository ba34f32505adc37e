"""Cache answers in SQLite, so that none is computed twice for the same model and request.

One file serves all models and runs. A key is the sha256 of everything that decides an answer: the weights, every other
file of the checkpoint (configuration, tokenizer, template), precision, backend, software versions, and the request as
token ids, which is the prompt after tokenizer and template. Answers are written batch by batch, one transaction each,
so that a kill loses at most the current batch.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_bench.errors import BenchError
from bitnet_bench.files import find_user_cache

CACHE_FILE_VARIABLE = "BITNET_BENCH_CACHE"
APPLICATION_ID = 0x62626163
"""SQLite's application_id of an answer store: "bbac"."""
STORE_VERSION = 1
MAX_KEYS_PER_QUERY = 500
LOCK_TIMEOUT_S = 60.0
ENVIRONMENT_ERROR_CODES = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}
"""Result codes that say nothing about the file's contents; any other code means that the file is broken or foreign."""
DAMAGED_FILE_ERRORS = (sqlite3.Error, ValueError, TypeError)
"""Errors of reading a damaged file; ValueError if even its error message cannot be decoded."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS models (
    id INTEGER PRIMARY KEY, identity BLOB NOT NULL UNIQUE, about TEXT NOT NULL, used TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
    key BLOB PRIMARY KEY, model INTEGER NOT NULL, answer BLOB NOT NULL, seal BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_of_model ON answers (model);
"""
_log = logging.getLogger(__name__)


def cache_file() -> Path:
    """Return the path of the answer store: $BITNET_BENCH_CACHE, else a file in the user's cache folder.

    A folder is a store with a file for each writer (`bitnet_bench.evaluation.answer_log`).
    """
    if os.environ.get(CACHE_FILE_VARIABLE):
        return Path(os.environ[CACHE_FILE_VARIABLE])
    return find_user_cache() / "answers.sqlite3"


@dataclass(frozen=True)
class StoredModel:
    """Summary of the stored answers of one model."""

    id: int
    about: Mapping[str, str]
    """Model, precision, backend and versions of the software."""
    answers: int
    size: int
    """Size of its keys and answers in bytes."""
    used: str
    """Time when it was last opened: ISO 8601, UTC."""


def keep_texts(about: Any) -> dict[str, str]:
    """Return what a file says of a model, as far as it is text: nothing vouches for it, and it is only shown."""
    return {name: text for name, text in about.items() if isinstance(text, str)} if isinstance(about, dict) else {}


def frame_parts(*parts: str | bytes) -> bytes:
    """Return *parts* joined, each with its length, so that different lists of parts give different bytes."""
    data = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"".join(len(part).to_bytes(8, "little") + part for part in data)


def compute_digest(*parts: str | bytes) -> bytes:
    """Return the sha256 of *parts*, framed by `frame_parts`."""
    return hashlib.sha256(frame_parts(*parts)).digest()


class AnswerStore(ABC):
    """Base class of answer stores, which keep answers for the next evaluation."""

    is_cache = True
    """True if what is looked up counts as an answer that another evaluation gave."""

    @abstractmethod
    def lookup(self, requests: Sequence[bytes]) -> dict[int, bytes]:
        """Return the stored answers, by the index of their request."""

    @abstractmethod
    def save(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Store *pairs* of a request and its answer."""


class NullStore(AnswerStore):
    """An answer store that keeps nothing, for `cache=False`."""

    def lookup(self, requests: Sequence[bytes]) -> dict[int, bytes]:
        """Return no answer."""
        return {}

    def save(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Discard *pairs*."""


class SqliteStore(AnswerStore):
    """The answers of one model in the file that all models share.

    A file that is broken or is not an answer store is renamed and never read. Without a writable file, evaluation
    continues and stores nothing. Both are logged.
    """

    def __init__(self, file: Path, identity: bytes, about: Mapping[str, str]) -> None:
        self._file, self._identity, self._about = file, identity, about
        self._connection: sqlite3.Connection | None = None
        self._open()

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def lookup(self, requests: Sequence[bytes]) -> dict[int, bytes]:
        """Return the stored answers by the index of their request."""
        if self._connection is None:
            return {}
        keys = [compute_digest(self._identity, request) for request in requests]
        try:
            found = self._read(self._connection, keys)
        except DAMAGED_FILE_ERRORS as error:
            self._recover(error)
            return {}
        return {i: found[key] for i, key in enumerate(keys) if key in found}

    def save(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Store (request, answer) pairs in one transaction."""
        if self._connection is None:
            return
        rows = [(compute_digest(self._identity, request), answer) for request, answer in pairs]
        try:
            with self._connection:
                model = self._entry(self._connection)  # another process may have pruned the model and its number
                self._connection.executemany(
                    "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)",  # replace a row whose seal is broken
                    [(key, model, answer, _compute_seal(key, answer)) for key, answer in rows],
                )
        except DAMAGED_FILE_ERRORS as error:
            self._recover(error)

    @staticmethod
    def _read(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for start in range(0, len(keys), MAX_KEYS_PER_QUERY):
            some = keys[start : start + MAX_KEYS_PER_QUERY]
            marks = ",".join("?" * len(some))
            rows = connection.execute(f"SELECT key, answer, seal FROM answers WHERE key IN ({marks})", some)
            found |= {key: answer for key, answer, seal in rows if _is_sealed(key, answer, seal)}
        return found

    def _open(self) -> None:
        try:
            self._connection = connect(self._file)
            with self._connection:
                self._entry(self._connection)
        except (*DAMAGED_FILE_ERRORS, OSError, _ForeignError) as error:
            self._recover(error)

    def _entry(self, connection: sqlite3.Connection) -> int:
        """Return the number of this model in the file, after adding it or updating its time of use."""
        about = json.dumps(dict(self._about), ensure_ascii=False)
        ((number,),) = connection.execute(
            "INSERT INTO models (identity, about, used) VALUES (?, ?, ?)"
            " ON CONFLICT (identity) DO UPDATE SET used = excluded.used RETURNING id",
            (self._identity, about, _make_timestamp()),
        )
        return int(number)

    def _recover(self, error: Exception) -> None:
        """Set a broken or foreign file aside and begin a new one; continue without a store if none can be written."""
        self.close()
        if isinstance(error, OSError) or getattr(error, "sqlite_errorcode", 0) & 0xFF in ENVIRONMENT_ERROR_CODES:
            _log.warning("Answers are not kept: %s: %s.", self._file, error)
            return
        aside = set_aside(self._file)
        _log.warning("%s is not a cache that can be trusted (%s). It is now %s.", self._file, error, aside)
        self._open()


def connect(file: Path) -> sqlite3.Connection:
    """Open or create *file*; _ForeignError if it is not an answer store, sqlite3.Error if it is broken."""
    file.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(file, timeout=LOCK_TIMEOUT_S)
    try:
        ((application,),) = connection.execute("PRAGMA application_id")
        ((version,),) = connection.execute("PRAGMA user_version")
        ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_schema")
        if tables and (application, version) != (APPLICATION_ID, STORE_VERSION):
            raise _ForeignError(f"its application_id is {application:#x}, its version {version}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if not tables:
            connection.executescript(
                f"BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {STORE_VERSION};"
                f"{_SCHEMA} COMMIT;"
            )
    except BaseException:
        connection.close()
        raise
    return connection


class _ForeignError(Exception):
    """A database that another program, or another version of this one, made."""


def set_aside(file: Path) -> Path:
    """Rename *file* and SQLite's files next to it to a free name; return that name."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S-%f")
    aside = file.with_name(f"{file.name}.aside-{stamp}")
    for ending in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            Path(f"{file}{ending}").rename(f"{aside}{ending}")
    return aside


def list_stored_models(file: Path) -> list[StoredModel]:
    """Return a summary of each stored model, the last used first; BenchError if *file* is not an answer store."""
    if not file.exists():
        return []
    query = """
        SELECT models.id, about, used, count(key), coalesce(sum(length(key) + length(answer) + length(seal)), 0)
        FROM models LEFT JOIN answers ON answers.model = models.id GROUP BY models.id ORDER BY used DESC, models.id"""
    try:
        with closing(connect(file)) as connection:
            rows = connection.execute(query).fetchall()
            return [
                StoredModel(id_, keep_texts(json.loads(about)), n, size, used) for id_, about, used, n, size in rows
            ]
    except (*DAMAGED_FILE_ERRORS, OSError, _ForeignError) as error:
        raise _make_unreadable_error(file, error) from error


def prune(file: Path, unused_days: float) -> tuple[list[StoredModel], int]:
    """Delete models that were not used for *unused_days*; return them, and by how many bytes the file shrank."""
    before = _make_timestamp(days_ago=unused_days)
    old = [model for model in list_stored_models(file) if model.used <= before]
    if not file.exists():
        return [], 0
    size = _size(file)
    try:
        with closing(connect(file)) as connection:
            with connection:
                forgotten = [model for model in old if _forget(connection, model)]
            ((free,),) = connection.execute("PRAGMA freelist_count")
            if free:  # pages freed by this call, or by one that was killed before it could release them
                connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except DAMAGED_FILE_ERRORS as error:
        raise _make_unreadable_error(file, error) from error
    return forgotten, size - _size(file)


def _forget(connection: sqlite3.Connection, model: StoredModel) -> bool:
    """Delete *model* unless an evaluation has opened it since it was listed; return whether it was deleted."""
    query = "DELETE FROM models WHERE id = ? AND used = ?"
    if connection.execute(query, (model.id, model.used)).rowcount == 0:
        return False
    connection.execute("DELETE FROM answers WHERE model = ?", (model.id,))
    return True


def _size(file: Path) -> int:
    """Return the size in bytes of *file* and of SQLite's write-ahead log."""
    return sum(part.stat().st_size for part in (file, Path(f"{file}-wal")) if part.exists())


def _make_unreadable_error(file: Path, error: Exception) -> BenchError:
    return BenchError(
        f"{file} is not a cache of answers that can be read: {error}.",
        f"Move it away, or name another with {CACHE_FILE_VARIABLE}; the next evaluation sets it aside by itself.",
    )


def _is_sealed(key: Any, answer: Any, seal: Any) -> bool:
    """Return whether a row was read as it was written; in a damaged file, values may also have other types."""
    return isinstance(key, bytes) and isinstance(answer, bytes) and seal == _compute_seal(key, answer)


def _compute_seal(key: bytes, answer: bytes) -> bytes:
    """Return a checksum that shows whether *key* or *answer* was changed on disk."""
    return hashlib.blake2b(key + answer, digest_size=8).digest()


def _make_timestamp(days_ago: float = 0.0) -> str:
    moment = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days_ago)
    return moment.isoformat(timespec="microseconds")
