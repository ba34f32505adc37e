"""Read the tensors of a GGUF file as those of a checkpoint folder: names, order of rows and scales of transformers.

A ternary layer looks like one of the format `packed`: its codes in panels, which are made when they are read, and its
scale or the scales of its groups. Other tensors are floats: F32, F16 and BF16 are mapped from disk, the rest is decoded
to float32.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from bitnet_bench.checkpoints.config import read_config
from bitnet_bench.checkpoints.gguf.gguf_file import iterate_bytes, map_bytes, read_bytes
from bitnet_bench.checkpoints.gguf.group_types import merge_groups, split_groups
from bitnet_bench.checkpoints.gguf.index import CODE_TOLERANCE, CODE_TOLERANCES, IndexedTensor, read_groups
from bitnet_bench.checkpoints.gguf.naming import GgufLayout
from bitnet_bench.checkpoints.gguf.types import (
    BF16,
    F16,
    FLOAT_TYPES,
    I2_S,
    TQ1_0,
    TQ2_0,
    Array,
    I2sOrder,
    count_2bit_codes,
    read_i2_s_scale,
    read_scales,
    unpack_codes,
    unpack_tensor,
)
from bitnet_bench.checkpoints.shards import FLOAT_DTYPES, Shards, TensorHeader
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.value import Value
from bitnet_bench.ternary.panels import panel_shape, to_panels

if TYPE_CHECKING:
    import torch
    from torch import Tensor

INDEX_NAME = "gguf-index"
"""File that makes a folder the view of a GGUF file; no *.json, so that the place of the file decides no answer."""
SCALE_END = "weight_scale"


class GgufIndex(Value):
    """What a view knows of its GGUF file."""

    architecture: str
    files: tuple[str, ...]
    """Absolute paths of all parts, in order."""
    sizes: tuple[int, ...]
    sha256: str
    """Digest of all parts."""
    order: I2sOrder
    types: dict[str, int]
    tokenizer_problem: tuple[str, str] | None = None
    """What is wrong with the tokenizer and what to do, if it could not be built."""
    tokenizer_given: bool = False
    """True if the tokenizer is one that was named for the file, and not its own."""
    tensors: dict[str, IndexedTensor]


def read_index(folder: Path) -> GgufIndex | None:
    """Return the index of a view; None if *folder* is none."""
    file = folder / INDEX_NAME
    if not file.is_file():
        return None
    try:
        return GgufIndex.model_validate_json(file.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise BenchError(f"{file} is damaged.", f"Delete the folder {folder}: it is made again.") from error


class GgufShards(Shards):
    """The tensors of a GGUF file by their names in transformers."""

    def __init__(self, folder: Path) -> None:
        index = read_index(folder)
        assert index is not None, f"{folder} is a view"
        self.index = index
        self.files = [Path(file) for file in index.files]
        for file, size in zip(self.files, index.sizes, strict=True):
            if not file.is_file() or file.stat().st_size != size:
                what = "was changed while it was in use" if file.is_file() else "is gone"
                raise BenchError(f"{file} {what}.", "Put it back, or give the file where it is now.")
        self._layout = GgufLayout(index.architecture, read_config(folder))

    @cached_property
    def headers(self) -> dict[str, TensorHeader]:
        """The header of every tensor, by name; codes have the shape of their panels."""
        found: dict[str, TensorHeader] = {}
        for name, one in self.index.tensors.items():
            file, entry = self.files[one.file], one.entry
            if not one.is_ternary:
                changed = entry.kind in (F16, BF16) and (one.factor != 1.0 or self._layout.is_offset_norm(name))
                found[name] = TensorHeader(file, "F32" if changed else entry.kind.name, one.shape, entry.bytes)
                continue
            found[name] = TensorHeader(file, "U8", panel_shape(*one.shape), entry.bytes)
            if one.group:  # their bytes are among those of the codes
                found[_name_scale(name)] = TensorHeader(file, "F16", (one.shape[0], one.shape[1] // one.group), 0)
            else:
                found[_name_scale(name)] = TensorHeader(file, "F32", (1,))
        return found

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The shapes of ternary layers, as the format `packed` notes them."""
        shapes = {name.removesuffix(".weight"): one.shape for name, one in self._ternary.items()}
        return {"shapes": json.dumps(shapes)}

    @cached_property
    def _ternary(self) -> dict[str, IndexedTensor]:
        return {name: one for name, one in self.index.tensors.items() if one.is_ternary}

    def tensor(self, name: str) -> Tensor:
        """Return the panels or the scale of a ternary layer, or the values of another tensor."""
        import torch

        if name.endswith(SCALE_END):
            return self._read_scales(f"{name.removesuffix(SCALE_END)}weight")
        one = self.index.tensors[name]
        module = name.rpartition(".")[0]
        if not one.is_ternary:
            return self._layout.restore_rows(module, self._read_floats(name, one))
        return to_panels(self._layout.restore_rows(module, torch.from_numpy(self._read_codes(name, one))))

    def rows(self, name: str, count: int) -> Tensor:
        """Return some *count* rows of a tensor, which need not be the first in transformers' order."""
        one = self.index.tensors[name]
        return self.tensor(name)[:count] if one.is_ternary else self._read_floats(name, one, count)

    def count_zeros(self, name: str) -> int | None:
        """Return how many codes of a ternary layer are 0; BenchError if it holds a value that is no code."""
        one = self.index.tensors[name]
        if one.entry.kind not in (TQ2_0, I2_S):
            return int((self._read_codes(name, one) == 0).sum())
        counts = count_2bit_codes(read_bytes(self.files[one.file], one.entry), one.entry.kind)
        if counts[3]:
            raise self._damage_error(name)
        return int(counts[1])

    def find_non_finite(self) -> str | None:
        """Return the name of a float tensor that holds NaN or infinity; of blocks only the scales are read."""
        for name, one in self.index.tensors.items():
            if not one.is_ternary and not self._is_finite(name, one):
                return name
        return None

    def _is_finite(self, name: str, one: IndexedTensor) -> bool:
        import torch

        if one.entry.kind.scales:
            pieces = iterate_bytes(self.files[one.file], one.entry)
            return all(bool(np.isfinite(read_scales(piece, one.entry.kind)).all()) for piece in pieces)
        values = self._read_floats(name, one)
        return not values.numel() or all(bool(end.isfinite()) for end in torch.aminmax(values))

    def compute_digest(self, noted: dict[str, str]) -> str:
        """Return the sha256 of all parts, which the view was made for."""
        return self.index.sha256

    def count_types(self) -> dict[str, int]:
        """Return the bytes by tensor type."""
        return self.index.types

    def locate_tensor(self, name: str) -> str:
        """Return "NAME in FILE", with the tensor's name in the file, for messages."""
        one = self.index.tensors.get(name) or self.index.tensors[f"{name.removesuffix(SCALE_END)}weight"]
        return f"{one.stored} in {self.files[one.file]}"

    def _read_codes(self, name: str, one: IndexedTensor) -> Array:
        """Return the int8 codes [N, K] in the order of the file."""
        if one.group:
            return self._read_groups(name, one)[0]
        kind, data = one.entry.kind, read_bytes(self.files[one.file], one.entry)
        if kind in (TQ1_0, TQ2_0, I2_S):
            codes = unpack_codes(data, kind, one.shape, self.index.order)
            if codes.size and int(codes.max()) > 1:
                raise self._damage_error(name)
            return codes
        values = unpack_tensor(data, kind, one.shape)
        largest = float(np.abs(values).max()) or 1.0
        codes = np.rint(values / largest)
        if not np.abs(values / largest - codes).max() <= CODE_TOLERANCES.get(kind.name, CODE_TOLERANCE):
            raise self._damage_error(name)
        return codes.astype(np.int8)

    def _read_scales(self, name: str) -> Tensor:
        """Return the scale [1] of a ternary layer in float32, or the scales of its groups [N, groups] in float16."""
        import torch

        one = self.index.tensors[name]
        if one.group is None:
            return torch.tensor([one.gamma])
        codes, scales = self._read_groups(name, one)
        groups = codes.shape[1] // one.group
        wider = merge_groups(codes, scales, one.group) if groups <= scales.shape[1] else None
        found = split_groups(codes, scales, one.group) if groups > scales.shape[1] else wider
        if found is None:
            raise self._damage_error(name)
        return self._layout.restore_rows(name.rpartition(".")[0], torch.from_numpy(found.astype(np.float16)))

    def _read_groups(self, name: str, one: IndexedTensor) -> tuple[Array, Array]:
        """Return the int8 codes [N, K] and the scales [N, groups of the type] in the order of the file."""
        found = read_groups(self.files[one.file], one)
        if found is None:
            raise self._damage_error(name)
        return found

    def _read_floats(self, name: str, one: IndexedTensor, rows: int | None = None) -> Tensor:
        """Return values, or those of the first *rows*, in the order of the file."""
        import torch

        kind, file = one.entry.kind, self.files[one.file]
        mapped = rows is None and kind in FLOAT_TYPES
        data = map_bytes(file, one.entry) if mapped else read_bytes(file, one.entry, rows)
        shape = one.shape if rows is None else (min(rows, one.shape[0]), *one.shape[1:])
        if kind in FLOAT_TYPES:
            dtype: torch.dtype = getattr(torch, FLOAT_DTYPES[kind.name])
            values = torch.from_numpy(data).view(dtype).reshape(shape)
        else:
            values = torch.from_numpy(self._unpack(data, one, shape))
        if one.factor != 1.0:
            values = values.float() * one.factor
        return values.float() - 1 if self._layout.is_offset_norm(name) else values

    def _unpack(self, data: Array, one: IndexedTensor, shape: tuple[int, ...]) -> Array:
        kind = one.entry.kind
        if kind != I2_S:
            return unpack_tensor(data, kind, shape)
        whole = read_bytes(self.files[one.file], one.entry)
        values = unpack_tensor(whole, kind, one.shape, self.index.order)[: shape[0]]
        return values * np.float32(read_i2_s_scale(whole))

    def _damage_error(self, name: str) -> BenchError:
        return BenchError(
            f"{self.locate_tensor(name)} is damaged: it holds values that are no codes.", "Get the file again."
        )


def _name_scale(name: str) -> str:
    return f"{name.removesuffix('weight')}{SCALE_END}"
