"""Recognise group-scaled ternary weights: in every group of 64 or 128 inputs of a row, all values are -s, 0 or +s.

Ternary Bonsai is published so (float16, `model_type: qwen3`, embedding and head included), and nothing in its files
says it. Taken for a float model, it would be made ternary again with one scale per layer, which destroys it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bitnet_bench.checkpoints.shards import FLOAT_DTYPES, Shards
from bitnet_bench.errors import BenchError
from bitnet_bench.ternary.groups import GROUP_SIZES, split_into_groups

SAMPLE_ROWS = 16
VALUES_AT_ONCE = 1 << 22
ROTATION = re.compile("hadamard|(^|[._])rotation", re.IGNORECASE)


def check_not_rotated(source: str, fields: Mapping[str, Any], tensors: Iterable[str] = ()) -> None:
    """Raise BenchError if *fields* (config.json, the metadata of a GGUF file) or names of tensors tell of a rotation.

    Bonsai 2 folds a Walsh-Hadamard rotation into its weights: `model_type: prism_hadamard_qwen35`, and
    `prism.hadamard.*` in a GGUF file. Without the same rotation of its activations a runtime gives noise.
    """
    found = next(_find_rotation(fields), None) or next((name for name in tensors if ROTATION.search(name)), None)
    if found:
        raise BenchError(
            f"{source} has a rotation folded into its weights ({found}), as Bonsai 2 does: its activations must be "
            "rotated at run time, which bitnet-bench does not do.",
            "Run it with the publisher's own runtime; Ternary Bonsai without a rotation can be opened.",
        )


def _find_rotation(fields: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _find_rotation(value, f"{prefix}{name}.")
        elif (value and ROTATION.search(name)) or (name == "model_type" and ROTATION.search(str(value))):
            yield f"{prefix}{name}: {str(value)[:40]}"


def sample_groups(shards: Shards) -> bool:
    """Return whether a few rows of some matrix hold one magnitude a group: fast, not conclusive."""
    for name, header in shards.headers.items():
        if header.dtype not in FLOAT_DTYPES or len(header.shape) != 2 or "embed" in name or "lm_head" in name:
            continue
        rows = shards.rows(name, SAMPLE_ROWS)
        if bool(rows.any()) and split_into_groups(rows, GROUP_SIZES[-1]):
            return True
    return False


def find_group_size(weight: Tensor) -> int | None:
    """Return the widest group that explains every value of *weight* [N, K], or None if no known one does."""
    if not any(split_into_groups(weight[:SAMPLE_ROWS], group) for group in GROUP_SIZES):
        return None
    rows = max(1, VALUES_AT_ONCE // weight.shape[1])
    for group in GROUP_SIZES:
        if all(split_into_groups(weight[at : at + rows], group) for at in range(0, len(weight), rows)):
            return group
    return None


@dataclass(frozen=True)
class Groups:
    """Group-scaled weights of a folder."""

    size: int
    """Inputs of a group: the widest known size that explains every layer and table."""
    tables: tuple[str, ...]
    """Names of embedding and head, where they are ternary too."""
    odd_layer: str | None
    """A linear layer without groups; None if all have them."""


def find_groups(config: dict[str, Any], shards: Shards) -> Groups | None:
    """Return the groups of the linear layers, embedding and head of a folder, or None if no layer has any."""
    from bitnet_bench.checkpoints.building import list_table_names, list_ternary_shapes

    def find_sizes(names: Iterable[str]) -> dict[str, int | None]:
        stored = [name for name in names if f"{name}.weight" in shards.headers]
        return {name: find_group_size(shards.tensor(f"{name}.weight")) for name in stored}

    layers = find_sizes(list_ternary_shapes(config))
    if not any(layers.values()):
        return None
    tables = {name: size for name, size in find_sizes(list_table_names(config)).items() if size}
    odd = next((name for name, size in layers.items() if not size), None)
    return Groups(min(size for size in (*layers.values(), *tables.values()) if size), tuple(tables), odd)


def mixed_layers_error(path: Path, shards: Shards, layer: str) -> BenchError:
    """Return the error for ternary values in some layers but not in *layer*."""
    return BenchError(
        f"{path} holds ternary values in some layers but not in {shards.locate_tensor(f'{layer}.weight')}.",
        "Whether the others are to be quantized is not known: add the quantization_config it was trained with.",
    )
