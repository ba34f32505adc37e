"""Read a GGUF file: its metadata, and one tensor at a time.

The header is parsed here and not with the `gguf` package, which lacks I2_S and takes seconds for a large vocabulary.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bitnet_bench.checkpoints.gguf.types import TENSOR_TYPES, Array, TensorType, read_i2_s_scale, unpack_tensor
from bitnet_bench.errors import BenchError

MAGIC = b"GGUF"
GGUF_VERSIONS = (2, 3)
NUMBER_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
DEFAULT_ALIGNMENT = 32
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
        return self.kind.bytes(int(np.prod(self.shape)))


class GgufFile:
    """An opened GGUF file; tensors are read on access."""

    def __init__(self, path: Path) -> None:
        """Raise BenchError if *path* is not a GGUF file, is cut off, or has a tensor of an unsupported type."""
        self.path = path
        self.fields: dict[str, Any] = {}
        self.tensors: dict[str, TensorEntry] = {}
        try:
            with path.open("rb") as stream:
                self._read_header(stream)
        except OSError as error:
            raise BenchError(f"{path} cannot be read: {error.strerror}.", "Check the name.") from error
        except (struct.error, UnicodeDecodeError, KeyError, MemoryError, OverflowError) as error:
            raise BenchError(f"{path} is a damaged GGUF file: {error!r}.", WRITE_AGAIN_HINT) from error
        self._check_complete()

    @property
    def architecture(self) -> str:
        """Architecture that the runtime uses, such as `bitnet` or `llama`."""
        return str(self.fields.get("general.architecture", "unknown"))

    def values(self, name: str) -> Array:
        """Return a tensor in float32; for I2_S, its codes."""
        entry = self._find_entry(name)
        return unpack_tensor(read_bytes(self.path, entry), entry.kind, entry.shape)

    def scale(self, name: str) -> float:
        """Return what multiplies the tensor *name*: its own scale, or that of the tensor `.scale` next to it, or 1."""
        beside = f"{name.removesuffix('.weight')}.scale"
        if self._find_entry(name).kind.name == "I2_S":
            return read_i2_s_scale(read_bytes(self.path, self.tensors[name]))
        return float(self.values(beside).reshape(-1)[0]) if beside in self.tensors else 1.0

    def _find_entry(self, name: str) -> TensorEntry:
        if name not in self.tensors:
            raise BenchError(f"{self.path} has no tensor {name}.", "It holds another architecture, or is incomplete.")
        return self.tensors[name]

    def _read_header(self, stream: BinaryIO) -> None:
        magic, version, tensors, fields = struct.unpack("<4sIQQ", stream.read(24))
        if magic != MAGIC or version not in GGUF_VERSIONS:
            raise BenchError(f"{self.path} is no GGUF file of version 2 or 3.", WRITE_AGAIN_HINT)
        for _ in range(fields):
            name = _read_string(stream)
            self.fields[name] = _read_value(stream, _read_number(stream, "I"))
        found = [
            (_read_string(stream), _read_dimensions(stream), _read_number(stream, "I"), _read_number(stream, "Q"))
            for _ in range(tensors)
        ]
        alignment = int(self.fields.get("general.alignment", DEFAULT_ALIGNMENT))
        data = -(-stream.tell() // alignment) * alignment
        for name, dimensions, number, offset in found:
            if number not in TENSOR_TYPES:
                raise BenchError(
                    f"{name} of {self.path} is of ggml type {number}, which is not read.", WRITE_AGAIN_HINT
                )
            self.tensors[name] = TensorEntry(TENSOR_TYPES[number], tuple(reversed(dimensions)), data + offset)

    def _check_complete(self) -> None:
        size = self.path.stat().st_size
        for name, entry in self.tensors.items():
            if entry.start + entry.bytes > size:
                raise BenchError(f"{self.path} ends before its tensor {name} does.", WRITE_AGAIN_HINT)


def read_bytes(path: Path, entry: TensorEntry, rows: int | None = None) -> Array:
    """Return the bytes of a tensor, or of its first *rows*, mapped from disk: they are read when they are touched."""
    size = entry.bytes if rows is None else entry.kind.bytes(min(rows, entry.shape[0]) * entry.shape[-1])
    if not size:
        return np.empty(0, dtype=np.uint8)
    # copied when written, which torch asks for
    return np.memmap(path, dtype=np.uint8, mode="c", offset=entry.start, shape=(size,))


def _read_number(stream: BinaryIO, code: str) -> Any:
    return struct.unpack(f"<{code}", stream.read(struct.calcsize(f"<{code}")))[0]


def _read_string(stream: BinaryIO) -> str:
    length = _read_number(stream, "Q")
    return stream.read(length).decode("utf-8")


def _read_tensor_info(stream: BinaryIO) -> tuple[str, list[int], int, int]:
    """Return (name, dimensions in ggml's order, number of the type, offset in the data)."""
    return _read_string(stream), _read_dimensions(stream), _read_number(stream, "I"), _read_number(stream, "Q")


def _read_dimensions(stream: BinaryIO) -> list[int]:
    count = _read_number(stream, "I")
    return list(struct.unpack(f"<{count}Q", stream.read(8 * count)))


def _read_value(stream: BinaryIO, kind: int) -> Any:
    if kind == STRING:
        return _read_string(stream)
    if kind != ARRAY:
        return _read_number(stream, NUMBER_FORMATS[kind])
    inner, count = _read_number(stream, "I"), _read_number(stream, "Q")
    if inner in NUMBER_FORMATS:
        code = f"<{count}{NUMBER_FORMATS[inner]}"
        return list(struct.unpack(code, stream.read(struct.calcsize(code))))
    return [_read_value(stream, inner) for _ in range(count)]
