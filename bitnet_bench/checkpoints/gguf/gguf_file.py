"""Read a GGUF file: its metadata, and one tensor at a time.

The header is parsed here and not with the `gguf` package, which lacks I2_S and takes seconds for a large vocabulary.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bitnet_bench.checkpoints.gguf.group_types import find_q2_0_type
from bitnet_bench.checkpoints.gguf.types import (
    I2_S,
    I2_S_TAIL_BYTES,
    Q2_0,
    TENSOR_TYPES,
    Array,
    TensorType,
    read_i2_s_scale,
    unpack_tensor,
)
from bitnet_bench.errors import BenchError, shorten_text

MAGIC = b"GGUF"
GGUF_VERSIONS = (2, 3)
NUMBER_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
DEFAULT_ALIGNMENT, MAX_ALIGNMENT = 32, 1 << 20
SMALLEST_TENSOR_BYTES, SMALLEST_FIELD_BYTES, SMALLEST_VALUE_BYTES = 24, 13, 8
"""Fewest bytes that a tensor's entry, a field, and a text or list in an array take in the header."""
MAX_HEADER_VALUES = 1 << 24
"""Number of values up to which a header is read: the largest vocabularies have some 300,000 tokens."""
MAX_STRING_BYTES = 1 << 24
MAX_DIMENSIONS, MAX_ARRAY_DEPTH = 8, 4
BYTES_AT_ONCE = 1 << 22
WRITE_AGAIN_HINT = "Write it again with `bitnet-bench convert --to gguf-...`, or get it again."


@dataclass(frozen=True)
class TensorEntry:
    """The location of a tensor: its type, its shape in torch's order, and its first byte."""

    kind: TensorType
    shape: tuple[int, ...]
    start: int

    @property
    def bytes(self) -> int:
        """Size in the file."""
        return self.kind.bytes(prod(self.shape))


class GgufFile:
    """An opened GGUF file; tensors are read on access."""

    def __init__(self, path: Path) -> None:
        """Raise BenchError if *path* is not a GGUF file, is cut off, or has a tensor of an unsupported type."""
        self.path = path
        self.fields: dict[str, Any] = {}
        self.tensors: dict[str, TensorEntry] = {}
        try:
            with path.open("rb") as stream:
                self._read_header(_HeaderReader(stream, path.stat().st_size))
        except OSError as error:
            raise BenchError(f"{path} cannot be read: {error.strerror}.", "Check the name.") from error
        except _DamageError as error:
            raise BenchError(f"{path} is a damaged GGUF file: {error}.", WRITE_AGAIN_HINT) from error
        if any("hadamard" in name for name in self.fields):  # asked here first: the module imports torch
            from bitnet_bench.checkpoints.grouped import check_not_rotated

            check_not_rotated(str(path), self.fields)

    @property
    def architecture(self) -> str:
        """Architecture that the runtime uses, such as `bitnet` or `llama`."""
        name = self.fields.get("general.architecture")
        return shorten_text(name, 60) if isinstance(name, str) else "unknown"

    def values(self, name: str) -> Array:
        """Return a tensor in float32; for I2_S, its codes."""
        entry = self._find_entry(name)
        return unpack_tensor(read_bytes(self.path, entry), entry.kind, entry.shape)

    def scale(self, name: str) -> float:
        """Return what multiplies the tensor *name*: its own scale, or that of the tensor `.scale` next to it, or 1."""
        entry, beside = self._find_entry(name), f"{name.removesuffix('.weight')}.scale"
        if entry.kind == I2_S:
            return read_scale(self.path, entry)
        return float(self.values(beside).reshape(-1)[0]) if beside in self.tensors else 1.0

    def _find_entry(self, name: str) -> TensorEntry:
        if name not in self.tensors:
            raise BenchError(f"{self.path} has no tensor {name}.", "It holds another architecture, or is incomplete.")
        return self.tensors[name]

    def _read_header(self, header: _HeaderReader) -> None:
        magic, version = header.take(4), header.number("I")
        if magic != MAGIC or version not in GGUF_VERSIONS:
            raise BenchError(f"{self.path} is no GGUF file of version 2 or 3.", WRITE_AGAIN_HINT)
        tensors, fields = header.count(SMALLEST_TENSOR_BYTES), header.count(SMALLEST_FIELD_BYTES)
        for _ in range(fields):
            name = header.string()
            self.fields[name] = header.value(header.number("I"))
        found = [(header.string(), header.dimensions(), header.number("I"), header.number("Q")) for _ in range(tensors)]
        alignment = self.fields.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= MAX_ALIGNMENT:
            raise _DamageError(f"its alignment is {_shorten(alignment)}")
        data = -(-header.position // alignment) * alignment
        for name, dimensions, number, offset in found:
            self._add_tensor(name, TENSOR_TYPES.get(number), number, tuple(reversed(dimensions)), data + offset)
        self._resolve_groups(alignment, header.size)
        for name, entry in self.tensors.items():
            if entry.start + entry.bytes > header.size:
                raise _DamageError(f"it ends before its tensor {_shorten(name)} does")

    def _resolve_groups(self, alignment: int, size: int) -> None:
        """Tell Q2_0 in groups of 128 from that in groups of 64, which has the same number, by the tensors' places."""
        q2_0 = {name: entry for name, entry in self.tensors.items() if entry.kind == Q2_0}
        if not q2_0:
            return
        starts = sorted({entry.start for entry in self.tensors.values()} | {size})
        following = dict(pairwise(starts))
        spans = [(entry.shape, following.get(entry.start, entry.start) - entry.start) for entry in q2_0.values()]
        try:
            kind = find_q2_0_type(spans, alignment)
        except ValueError as error:
            raise _DamageError(str(error)) from error
        for name, entry in q2_0.items():
            self.tensors[name] = replace(entry, kind=kind)

    def _add_tensor(self, name: str, kind: TensorType | None, number: int, shape: tuple[int, ...], start: int) -> None:
        if kind is None:
            raise BenchError(
                f"{_shorten(name)} of {self.path} is of ggml type {number}, which is not read.", WRITE_AGAIN_HINT
            )
        if name in self.tensors:
            raise _DamageError(f"it has the tensor {_shorten(name)} twice")
        if not shape or 0 in shape or not kind.can_hold_rows(shape[-1]):
            raise _DamageError(
                f"its tensor {_shorten(name)} has the shape {list(shape)}, which {kind.name} cannot have"
            )
        self.tensors[name] = TensorEntry(kind, shape, start)


class _DamageError(Exception):
    """What is wrong with a file; the end of a sentence about it."""


def count_types(entries: Iterable[TensorEntry]) -> dict[str, int]:
    """Return the bytes of tensors by type."""
    sizes: dict[str, int] = {}
    for entry in entries:
        sizes[entry.kind.name] = sizes.get(entry.kind.name, 0) + entry.bytes
    return sizes


def read_bytes(path: Path, entry: TensorEntry, rows: int | None = None) -> Array:
    """Return the bytes of a tensor, or of its first *rows*; BenchError if the file has become shorter.

    They are read and not mapped: a process dies of touching a mapped file that another program has shortened.
    """
    size = entry.bytes if rows is None else entry.kind.bytes(min(rows, entry.shape[0]) * prod(entry.shape[1:]))
    return _read(path, entry.start, size)


def read_scale(path: Path, entry: TensorEntry) -> float:
    """Return the scale after the codes of an I2_S tensor, without reading them."""
    return read_i2_s_scale(_read(path, entry.start + entry.bytes - I2_S_TAIL_BYTES, I2_S_TAIL_BYTES))


def iterate_bytes(path: Path, entry: TensorEntry) -> Iterator[Array]:
    """Yield the bytes of a tensor in pieces of whole blocks, which keeps memory small."""
    piece = max(1, BYTES_AT_ONCE // entry.kind.block_bytes) * entry.kind.block_bytes
    for begin in range(0, entry.bytes, piece):
        yield _read(path, entry.start + begin, min(piece, entry.bytes - begin))


def _read(path: Path, start: int, size: int) -> Array:
    try:
        data = np.fromfile(path, dtype=np.uint8, count=size, offset=start)
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}.", "Check the name.") from error
    if len(data) < size:
        raise BenchError(f"{path} has become shorter since it was opened.", WRITE_AGAIN_HINT)
    return data


def map_bytes(path: Path, entry: TensorEntry) -> Array:
    """Return the bytes of a tensor of floats, mapped from disk like those of safetensors: no copy of a model is made.

    Its pages are read when they are touched, and copied when they are written, which torch asks for.
    """
    if path.stat().st_size < entry.start + entry.bytes:
        raise BenchError(f"{path} has become shorter since it was opened.", WRITE_AGAIN_HINT)
    if not entry.bytes:
        return np.empty(0, dtype=np.uint8)
    return np.memmap(path, dtype=np.uint8, mode="c", offset=entry.start, shape=(entry.bytes,))


class _HeaderReader:
    """Reads the header of a GGUF file; nothing is read, and no memory taken, that the file is too small to hold."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self.size = stream, size
        self.position = 0
        self._values = 0

    def take(self, length: int) -> bytes:
        """Return the next *length* bytes."""
        if length > self.size - self.position:
            raise _DamageError("it ends within its header, or a length in it is wrong")
        self.position += length
        return self._stream.read(length)

    def number(self, code: str) -> Any:
        """Return the next number, of a format of `struct`."""
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def count(self, least_bytes: int) -> int:
        """Return the next count, of things that take *least_bytes* each; it is checked before anything is read."""
        count: int = self.number("Q")
        self._values += count
        if count * least_bytes > self.size - self.position or self._values > MAX_HEADER_VALUES:
            raise _DamageError(f"it cannot hold the {count:,} values that it counts")
        return count

    def string(self) -> str:
        """Return the next text."""
        length = self.number("Q")
        if length > MAX_STRING_BYTES:
            raise _DamageError(f"a text in its header has {length:,} bytes")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise _DamageError("a text in its header is not UTF-8") from error

    def dimensions(self) -> list[int]:
        """Return the next shape, in ggml's order."""
        count = self.number("I")
        if count > MAX_DIMENSIONS:
            raise _DamageError(f"a tensor has {count:,} dimensions")
        return [self.number("Q") for _ in range(count)]

    def value(self, kind: int, depth: int = 0) -> Any:
        """Return the next value, of a type of GGUF."""
        if kind == STRING:
            return self.string()
        if kind in NUMBER_FORMATS:
            return self.number(NUMBER_FORMATS[kind])
        if kind != ARRAY or depth >= MAX_ARRAY_DEPTH:
            raise _DamageError(f"a field is of the type {kind}, which there is not")
        inner = self.number("I")
        if inner in NUMBER_FORMATS:
            bytes_each = struct.calcsize(f"<{NUMBER_FORMATS[inner]}")
            count = self.count(bytes_each)
            return list(struct.unpack(f"<{count}{NUMBER_FORMATS[inner]}", self.take(count * bytes_each)))
        return [self.value(inner, depth + 1) for _ in range(self.count(SMALLEST_VALUE_BYTES))]


def _shorten(value: object) -> str:
    """Return a word of a file for a message."""
    return shorten_text(value, 60) if isinstance(value, str) else shorten_text(repr(value), 60)
