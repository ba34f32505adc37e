"""Say what each tensor of a GGUF file is: a ternary layer with its scale, or floats, under its name in transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from bitnet_bench.checkpoints.gguf import group_types
from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile, TensorEntry, read_bytes, read_scale
from bitnet_bench.checkpoints.gguf.naming import find_model_name
from bitnet_bench.checkpoints.gguf.parts import list_tensors
from bitnet_bench.checkpoints.gguf.types import (
    BLOCK_TYPES,
    FLOAT_TYPES,
    GROUP_TYPES,
    I2_S,
    TQ1_0,
    TQ2_0,
    UNREADABLE_TYPES,
    Array,
    TensorType,
    find_type,
    read_scales,
    unpack_codes,
    unpack_tensor,
)
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.value import Value
from bitnet_bench.ternary.groups import GROUP_SIZES
from bitnet_bench.ternary.quantizer import SMALLEST_SCALE

SAMPLE_ROWS = 16
LAYER_SUFFIX = "_proj.weight"
"""End of the names of the matrices that ternary training makes ternary."""
SCALE_SUFFIX = ".scale"
"""End of the name of a scale that llama.cpp multiplies a layer's product by."""
KNOWN_BESIDE = ("rope_freqs.weight",)
"""Tensors that are no weights, and are read with the settings."""
CODE_TOLERANCES = {"Q4_0": 0.2}
"""Largest distance of a stored code from its whole number: Q4_0 holds only one of -1 and +1 exactly."""
CODE_TOLERANCE = 1e-3


class IndexedTensor(Value):
    """A tensor of a GGUF file."""

    file: int
    """Number of the part."""
    stored: str
    """Name in the file."""
    kind: int
    """Number of its type of ggml."""
    block: int
    """Values in a block, by which types of one number differ."""
    shape: tuple[int, ...]
    start: int
    gamma: float | None = None
    """Scale of a ternary layer, by which its codes are multiplied; None for floats, and with scales of groups."""
    group: int | None = None
    """Inputs that share a scale, of a ternary layer or table whose rows have several; None for one scale, or floats."""
    factor: float = 1.0
    """Factor of floats that is stored beside them."""

    @property
    def entry(self) -> TensorEntry:
        """Return its place in the file."""
        return TensorEntry(find_type(self.kind, self.block), self.shape, self.start)

    @property
    def is_ternary(self) -> bool:
        """Return whether it is read as codes."""
        return self.gamma is not None or self.group is not None


def index_tensors(files: list[GgufFile]) -> dict[str, IndexedTensor]:
    """Return every weight of *files* by its name in transformers; BenchError for one that no model here has.

    A layer is ternary if its codes have one scale. If those of any layer have several, none is: all are floats then,
    unless every layer is of a type with a scale per group; embedding and head of such a type are ternary then, too.
    """
    places, architecture = list_tensors(files), files[0].architecture
    found: dict[str, IndexedTensor] = {}
    for stored, (number, entry) in places.items():
        if stored in KNOWN_BESIDE or stored.endswith(SCALE_SUFFIX):
            continue
        name = find_model_name(stored, architecture)
        if name is None:
            raise _make_unknown_error(files[number].path, stored)
        if entry.kind in UNREADABLE_TYPES:
            raise BenchError(
                f"{stored} of {files[number].path} is of type {entry.kind.name}, which only the build that wrote it "
                "reads.",
                "Convert the model to I2_S, or use the folder that it was made from.",
            )
        beside = places.get(f"{stored.removesuffix('.weight')}{SCALE_SUFFIX}")
        factor = _read_factor(files[beside[0]], beside[1]) if beside else 1.0
        path = files[number].path
        gamma = _find_gamma(path, entry, factor, beside is not None) if name.endswith(LAYER_SUFFIX) else None
        found[name] = IndexedTensor(
            file=number,
            stored=stored,
            kind=entry.kind.number,
            block=entry.kind.block,
            shape=entry.shape,
            start=entry.start,
            gamma=gamma,
            factor=factor,
        )
    if group := find_group_size(files, found):
        return {
            name: one.model_copy(update={"group": group}) if one.entry.kind in GROUP_TYPES else one
            for name, one in found.items()
        }
    if any(_list_several_scales(found)):
        return {name: one.model_copy(update={"gamma": None}) for name, one in found.items()}
    if not any(one.gamma for one in found.values()):
        return found
    return {name: _mark_baked(files[one.file].path, name, one) for name, one in found.items()}


def find_group_size(files: list[GgufFile], tensors: Mapping[str, IndexedTensor]) -> int | None:
    """Return how many inputs of the ternary layers share a scale: 128 if all scales allow it, else 64.

    None if a layer is of another type, or if one holds the code +2, which Q2_0 allows: all are read as floats then.
    """
    layers = [one for name, one in tensors.items() if name.endswith(LAYER_SUFFIX)]
    grouped = [one for one in tensors.values() if one.entry.kind in GROUP_TYPES]
    kinds = {one.entry.kind for one in layers}
    if not kinds or not kinds <= set(GROUP_TYPES) or any(one.factor != 1.0 or len(one.shape) != 2 for one in grouped):
        return None
    wide, narrow = GROUP_SIZES
    fits_wide = True
    for one in grouped:
        read = read_groups(files[one.file].path, one)
        if read is None:
            return None
        fits_wide = fits_wide and group_types.merge_groups(*read, wide) is not None
    return wide if fits_wide else narrow


def read_groups(path: Path, one: IndexedTensor) -> tuple[Array, Array] | None:
    """Return (codes int8 [N, K], scales float32 [N, groups]) in the groups of the type; None for codes beyond -1 to +1.

    BenchError if a scale is NaN or infinite.
    """
    rows, columns = one.shape
    data = read_bytes(path, one.entry)
    if not np.isfinite(read_scales(data, one.entry.kind)).all():
        raise BenchError(f"{one.stored} in {path} holds NaN or infinity.", "The file is damaged; get it again.")
    try:
        return group_types.unpack_codes(data, one.entry.kind, (rows, columns))
    except ValueError:
        return None


def _mark_baked(path: Path, name: str, one: IndexedTensor) -> IndexedTensor:
    """Return a layer of a ternary model with its scale, if it is stored as floats that hold -s, 0 and +s only.

    That is how a row is stored that is no whole number of blocks of codes.
    """
    if one.gamma is not None or not name.endswith(LAYER_SUFFIX) or one.entry.kind not in FLOAT_TYPES:
        return one
    if not has_three_values(path, one):
        return one
    values = np.abs(unpack_tensor(read_bytes(path, one.entry), one.entry.kind, one.shape))
    largest = values.max()
    is_baked = largest > 0 and bool(((values == largest) | (values == 0)).all())
    return one.model_copy(update={"gamma": float(np.float32(largest) * np.float32(one.factor))}) if is_baked else one


def has_three_values(path: Path, one: IndexedTensor) -> bool:
    """Return whether a few rows of a tensor hold one magnitude and perhaps zeros."""
    rows = _decode_rows(path, one.entry)
    return bool(np.isin(np.abs(rows), [0, np.abs(rows).max()]).all())


def list_rounded_layers(tensors: Mapping[str, IndexedTensor]) -> Iterator[IndexedTensor]:
    """Yield the layers whose values were rounded to blocks of few bits, or whose codes have several scales."""
    for name, one in tensors.items():
        if name.endswith(LAYER_SUFFIX) and one.entry.kind in (*BLOCK_TYPES, *GROUP_TYPES, TQ1_0, TQ2_0):
            yield one


def _list_several_scales(tensors: Mapping[str, IndexedTensor]) -> Iterator[str]:
    for name, one in tensors.items():
        if name.endswith(LAYER_SUFFIX) and one.gamma is None and one.entry.kind in (TQ1_0, TQ2_0, *GROUP_TYPES):
            yield name


def _make_unknown_error(path: Path, stored: str) -> BenchError:
    what = "a mixture of experts" if "_exps" in stored or "ffn_gate_inp" in stored else f"a tensor {stored}"
    return BenchError(
        f"{path} holds {what}, which no model that is read here has.",
        "Use the folder that the file was made from, if there is one.",
    )


def _read_factor(file: GgufFile, entry: TensorEntry) -> float:
    values = unpack_tensor(read_bytes(file.path, entry), entry.kind, entry.shape).reshape(-1)
    if values.size != 1 or not np.isfinite(values).all() or not values[0] > 0:
        raise BenchError(f"{file.path} holds a scale that is not one positive number.", "Get the file again.")
    return float(values[0])


def _find_gamma(path: Path, entry: TensorEntry, factor: float, has_factor: bool) -> float | None:
    """Return the scale of a layer if its values are codes with one scale, else None."""
    if entry.kind == I2_S:
        scale = read_scale(path, entry)
    elif entry.kind in (TQ1_0, TQ2_0):
        scale = _find_block_scale(read_bytes(path, entry), entry.kind)
    elif has_factor:
        scale = _find_stored_code(path, entry)
    else:
        return None
    gamma = float(np.float32(scale) * np.float32(factor))
    if not (np.isfinite(gamma) and gamma >= 0):
        raise BenchError(f"A layer of {path} has the scale {gamma}.", "The file is damaged; get it again.")
    return gamma or None


def _find_block_scale(data: Array, kind: TensorType) -> float:
    """Return the scale that all blocks have, 0.0 if they differ; the blocks of ggml that hold only zeros have none."""
    scales = read_scales(data, kind)[:, 0]
    used = scales[scales != 0]
    if not used.size:
        return SMALLEST_SCALE
    if not (used == used[0]).all() or not used[0] > 0:
        return 0.0
    idle = data.reshape(-1, kind.block_bytes)[scales == 0]
    hidden = len(idle) and unpack_codes(idle.reshape(-1), kind, (len(idle), kind.block)).any()
    return 0.0 if hidden else float(used[0])


def _find_stored_code(path: Path, entry: TensorEntry) -> float:
    """Return the magnitude that stands for code 1 in a few rows of a float tensor, 0.0 if they are no codes."""
    rows = _decode_rows(path, entry)
    largest = float(np.abs(rows).max())
    if not largest:
        return SMALLEST_SCALE
    distance = np.abs(rows / largest - np.rint(rows / largest)).max()
    if not distance <= CODE_TOLERANCES.get(entry.kind.name, CODE_TOLERANCE):
        return 0.0
    return 1.0 if abs(largest - 1) <= CODE_TOLERANCE else largest


def _decode_rows(path: Path, entry: TensorEntry) -> Array:
    rows = min(SAMPLE_ROWS, entry.shape[0])
    return unpack_tensor(read_bytes(path, entry, rows), entry.kind, (rows, *entry.shape[1:]))
