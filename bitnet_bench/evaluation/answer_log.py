"""Keep answers in files of one writer each, which a shared file system takes: nothing is locked, nothing is changed.

Shards write such files, and so does every evaluation if the answer cache (`CACHE_FILE_VARIABLE`) is a folder.

SQLite needs locks that NFS and other shared file systems do not keep. Here every process appends to a file of its own,
and reads the others' up to the last whole answer. An entry has a checksum; what a kill cut off ends the file.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import os
import platform
import struct
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.answer_cache import (
    AnswerStore,
    SqliteStore,
    StoredModel,
    cache_file,
    compute_digest,
    keep_texts,
    list_stored_models,
    prune,
    set_aside,
)
from bitnet_bench.files import explain_disk_errors

MAGIC = b"bitnet-bench answers 1\n"
HEAD = struct.Struct("<I")
"""Layout of the length of the header, JSON after `MAGIC`."""
ENTRY = struct.Struct("<32sI8s")
"""Layout of an entry before its answer: sha256 of the request, bytes of the answer, checksum of both."""
MAX_HEADER_BYTES = 2**16
LOG_PATTERN = "*.answers"
_log = logging.getLogger(__name__)


def read_answers(file: Path) -> tuple[dict[str, Any], dict[bytes, bytes], int]:
    """Return the header of *file*, its answers by the digest of their request, and where the last whole entry ends.

    BenchError if it is not a file of answers.
    """
    with explain_disk_errors(file):
        data = file.read_bytes()
    header, at = _read_header(file, data)
    found: dict[bytes, bytes] = {}
    while at + ENTRY.size <= len(data):
        key, length, seal = ENTRY.unpack_from(data, at)
        answer = data[at + ENTRY.size : at + ENTRY.size + length]
        if len(answer) < length or seal != _compute_seal(key, answer):
            break
        found[key] = answer
        at += ENTRY.size + length
    return header, found, at


def _read_header(file: Path, data: bytes) -> tuple[dict[str, Any], int]:
    """Return the header and where the entries begin."""
    begin = len(MAGIC) + HEAD.size
    problem = BenchError(f"{file} is not a file of answers.", "Move it away; its answers are computed again.")
    if not data.startswith(MAGIC) or len(data) < begin:
        raise problem
    (length,) = HEAD.unpack_from(data, len(MAGIC))
    if length > MAX_HEADER_BYTES or len(data) < begin + length:
        raise problem
    try:
        header = json.loads(data[begin : begin + length])
    except (ValueError, RecursionError) as error:
        raise problem from error
    if not isinstance(header, dict) or not isinstance(header.get("about"), dict):
        raise problem
    return header, begin + length


def _compute_seal(key: bytes, answer: bytes) -> bytes:
    return hashlib.blake2b(key + answer, digest_size=8).digest()


class _ReadStore(AnswerStore):
    """Base class of stores whose answers are in memory, by the digest of their request."""

    def __init__(self) -> None:
        self._known: dict[bytes, bytes] = {}

    def lookup(self, requests: Sequence[bytes]) -> dict[int, bytes]:
        """Return the stored answers by the index of their request."""
        keys = [compute_digest(request) for request in requests]
        return {i: self._known[key] for i, key in enumerate(keys) if key in self._known}


class AnswerLog(_ReadStore):
    """Answers of one model and one writer in a file of their own; a context manager.

    A file of another *identity* (of the model, its software and its files), or a damaged one, is renamed, which is
    logged. *is_cache*: whether what it holds counts as taken from a cache.
    """

    def __init__(self, file: Path, identity: bytes, about: Mapping[str, Any], is_cache: bool = False) -> None:
        super().__init__()
        self.is_cache = is_cache
        self._file, self._header = file, {"identity": identity.hex(), "about": dict(about)}
        with explain_disk_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        end = self._read_former() if file.exists() else 0
        with explain_disk_errors(file):
            self._stream = file.open("r+b" if end else "wb", buffering=0)
            self._stream.truncate(end)
            self._stream.seek(end)
            if not end:
                head = json.dumps(self._header, ensure_ascii=False).encode()
                self._write([MAGIC, HEAD.pack(len(head)), head])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _read_former(self) -> int:
        """Read what the file holds already; return where to go on, 0 if it must begin anew."""
        try:
            header, known, end = read_answers(self._file)
        except BenchError as error:
            _log.warning("%s It is now %s.", error.problem, set_aside(self._file))
            return 0
        if header.get("identity") != self._header["identity"]:
            what = "holds answers of other software, or of a checkpoint that was changed"
            _log.warning("%s %s. It is now %s.", self._file, what, set_aside(self._file))
            return 0
        self._known = known
        return end

    def save(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Append (request, answer) pairs, and wait until the disk has them."""
        parts = []
        for request, answer in pairs:
            key = compute_digest(request)
            self._known[key] = answer
            parts += [ENTRY.pack(key, len(answer), _compute_seal(key, answer)), answer]
        with explain_disk_errors(self._file):
            self._write(parts)

    def _write(self, parts: Sequence[bytes]) -> None:
        """Append *parts*; on a full disk none of them stays, so that what is written later can be read."""
        end = self._stream.tell()
        try:
            left = memoryview(b"".join(parts))
            while left:
                left = left[self._stream.write(left) :]
            os.fsync(self._stream.fileno())
        except OSError:
            with suppress(OSError):
                self._stream.truncate(end)
                self._stream.seek(end)
            raise


class KnownAnswers(_ReadStore):
    """Answers of several files, which are read only; what is computed beside them is kept in memory."""

    is_cache = False

    def __init__(self, files: Sequence[Path]) -> None:
        super().__init__()
        for file in files:
            self._known.update(read_answers(file)[1])

    def save(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Remember *pairs* of a request and its answer."""
        self._known.update((compute_digest(request), answer) for request, answer in pairs)


class FolderStore(_ReadStore):
    """The answers of one model in a folder that many processes share, each of which writes a file of its own.

    It reads what the others had written when it was opened, and what it has written itself. Without a writable folder,
    evaluation continues and stores nothing, which is logged, as are files that are damaged.
    """

    def __init__(self, folder: Path, identity: bytes, about: Mapping[str, str]) -> None:
        super().__init__()
        self._folder, self._identity, self._about = folder / identity.hex()[:32], identity, about
        self._log: AnswerLog | None = None
        self._writes = True
        for file in sorted(self._folder.glob(LOG_PATTERN)):
            try:
                header, answers, _ = read_answers(file)
            except BenchError as error:
                _log.warning("%s It is left out.", error.problem)
                continue
            self._known.update(answers if header.get("identity") == identity.hex() else {})

    def close(self) -> None:
        """Close the file."""
        if self._log is not None:
            self._log.close()

    def save(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Append (request, answer) pairs to this process's file, which the first of them makes."""
        if not pairs or not self._writes:
            return
        try:
            if self._log is None:
                name = f"{platform.node()[:60] or 'host'}-{os.getpid()}-{uuid.uuid4().hex[:8]}.answers"
                self._log = AnswerLog(self._folder / name, self._identity, self._about)
            self._log.save(pairs)
            self._known.update((compute_digest(request), answer) for request, answer in pairs)
        except BenchError as error:
            _log.warning("Answers are not kept: %s", error.problem)
            self._writes = False


def open_store(identity: bytes, about: Mapping[str, str]) -> SqliteStore | FolderStore:
    """Return the answer store of a model: a folder if `CACHE_FILE_VARIABLE` names one, else one file for all."""
    place = cache_file()
    return FolderStore(place, identity, about) if place.is_dir() else SqliteStore(place, identity, about)


def list_stored_answers() -> tuple[Path, list[StoredModel]]:
    """Return the path of the answer store and the models in it."""
    place = cache_file()
    if not place.is_dir():
        return place, list_stored_models(place)
    return place, [model for model, _ in _list_folder(place)]


def _list_folder(place: Path) -> list[tuple[StoredModel, list[Path]]]:
    """Return each model of a folder of answers with its files, the last used first."""
    found = []
    for number, folder in enumerate(sorted(path for path in place.iterdir() if path.is_dir())):
        files = sorted(folder.glob(LOG_PATTERN))
        answers: set[bytes] = set()
        about: dict[str, str] = {}
        for file in files:
            try:
                header, known, _ = read_answers(file)
            except BenchError:
                continue
            about = keep_texts(header["about"])
            answers.update(known)
        if files:
            used = datetime.datetime.fromtimestamp(max(file.stat().st_mtime for file in files), datetime.UTC)
            size = sum(file.stat().st_size for file in files)
            model = StoredModel(number, about, len(answers), size, used.isoformat(timespec="microseconds"))
            found.append((model, files))
    return sorted(found, key=lambda pair: pair[0].used, reverse=True)


def prune_answers(unused_days: float) -> tuple[list[StoredModel], int]:
    """Delete the answers of models that were not used for *unused_days*; return those models and the bytes freed.

    In a folder a model was used when an answer was last added.
    """
    place = cache_file()
    if not place.is_dir():
        return prune(place, unused_days)
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=unused_days)
    forgotten = []
    for model, files in _list_folder(place):
        if datetime.datetime.fromisoformat(model.used) <= before:
            for file in files:
                file.unlink(missing_ok=True)
            forgotten.append(model)
    return forgotten, sum(model.size for model in forgotten)
