"""Write safetensors files one tensor after the other, so that a model is never in memory as a whole.

The header is padded so that the data begins on a page (4096 bytes). Tensors whose size is a multiple of 64 come first,
8-bit ones before the others: each begins on a cache line, as the CPU kernel needs for its codes. The other tensors
follow from the widest dtype to the narrowest, which aligns each to its own elements. safetensors allows no gaps.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitnet_bench.checkpoints.shards import INDEX_FILE
from bitnet_bench.protocols import Progress

GIGABYTE = 10**9
SHARD_GIGABYTES = 2.0


PAGE_BYTES = 4096
CACHE_LINE_BYTES = 64
SHARD_BYTES = 2 * 10**9
DTYPE_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor that is described before it exists; *make* returns it when it is written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return prod(self.shape) * self.dtype.itemsize


def write_shards(
    folder: Path,
    tensors: Sequence[PlannedTensor],
    metadata: dict[str, str],
    shard_bytes: int,
    progress: Progress,
) -> dict[str, str]:
    """Write *tensors* into files and return the sha256 of each file by name.

    A file holds at most *shard_bytes* of data, or one tensor. Several files get an index file, as transformers expects.
    *progress* counts tensors.
    """
    shards = _split_shards(tensors, shard_bytes)
    names = [
        f"model-{i:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        for i in range(1, len(shards) + 1)
    ]
    done = itertools.count(1)

    def one_more() -> None:
        progress(next(done), len(tensors))

    digests = {
        name: _write_file(folder / name, shard, metadata, one_more) for name, shard in zip(names, shards, strict=True)
    }
    if len(shards) > 1:
        places = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": sum(tensor.bytes for tensor in tensors)}, "weight_map": places}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return digests


def _split_shards(tensors: Sequence[PlannedTensor], shard_bytes: int) -> list[list[PlannedTensor]]:
    shards: list[list[PlannedTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.bytes
    return shards


def _write_file(
    file: Path, tensors: Sequence[PlannedTensor], metadata: dict[str, str], one_more: Callable[[], None]
) -> str:
    ordered = sorted(tensors, key=_sort_key)
    digest = hashlib.sha256()
    with file.open("wb") as stream:
        head = _make_header(ordered, metadata)
        stream.write(head)
        digest.update(head)
        for planned in ordered:
            data = _make_bytes(planned)
            stream.write(data)
            digest.update(data)
            del data  # free it before the next one is made
            one_more()
    return digest.hexdigest()


def _sort_key(tensor: PlannedTensor) -> tuple[bool, bool, int]:
    """Return the sort key of a tensor; the docstring of this module explains the order."""
    whole_lines = tensor.bytes % CACHE_LINE_BYTES == 0
    return not whole_lines, whole_lines and tensor.dtype != torch.uint8, -tensor.dtype.itemsize


def _make_header(tensors: Sequence[PlannedTensor], metadata: dict[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    begin = 0
    for tensor in tensors:
        end = begin + tensor.bytes
        entries[tensor.name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    size = -(-(8 + len(text)) // PAGE_BYTES) * PAGE_BYTES - 8
    return struct.pack("<Q", size) + text.ljust(size)


def _make_bytes(planned: PlannedTensor) -> Any:
    tensor = planned.make()
    assert (tensor.dtype, tuple(tensor.shape)) == (planned.dtype, planned.shape), f"{planned.name} is not as planned"
    return memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy())  # type: ignore[arg-type]  # stubs only
