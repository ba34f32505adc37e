"""Write GGUF files by hand, byte for byte, so that tests can make those that no converter writes."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile, read_bytes
from bitnet_bench.checkpoints.gguf.types import Array, TensorType

Tensors = dict[str, tuple[TensorType, tuple[int, ...], Array]]
"""Type, shape in torch's order and bytes of each tensor."""
ALIGNMENT = 32


def read_whole(path: Path) -> tuple[dict[str, Any], Tensors]:
    """Return the fields and the tensors of a file."""
    file = GgufFile(path)
    return dict(file.fields), {
        name: (entry.kind, entry.shape, np.array(read_bytes(path, entry))) for name, entry in file.tensors.items()
    }


def write_whole(path: Path, fields: Mapping[str, Any], tensors: Tensors) -> Path:
    """Write a file of version 3 and return its path."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(fields))
    for name, value in fields.items():
        head += _text(name) + _value(value)
    offset, data = 0, b""
    for name, (kind, shape, content) in tensors.items():
        head += _text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += struct.pack("<IQ", kind.number, offset)
        piece = content.tobytes()
        data += piece + bytes(-len(piece) % ALIGNMENT)
        offset = len(data)
    path.write_bytes(head + bytes(-len(head) % ALIGNMENT) + data)
    return path


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: Any) -> bytes:
    if isinstance(value, list):
        parts = [_value(one) for one in value]
        kind = parts[0][:4] if parts else struct.pack("<I", 4)
        return struct.pack("<I", 9) + kind + struct.pack("<Q", len(parts)) + b"".join(part[4:] for part in parts)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    return struct.pack("<IQ", 10, value) if value >= 2**32 else struct.pack("<Ii", 5, value)
