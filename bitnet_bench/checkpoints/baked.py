"""Recognise weights that were quantized before they were saved: every value of a layer is -s, 0 or +s.

Quantizing them again would keep the codes and shrink the scale by the share of non-zeros, so they must be told apart
from masters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitnet_bench.checkpoints.shards import Shards, iterate_blocks
from bitnet_bench.errors import BenchError
from bitnet_bench.ternary.quantizer import SMALLEST_SCALE

SAMPLE_ROWS = 16


def has_three_values(shards: Shards) -> bool:
    """Return whether a few rows of some weight matrix hold one magnitude and perhaps zeros: fast, not conclusive."""
    for name, header in shards.headers.items():
        if header.float_dtype is None or len(header.shape) != 2 or "embed" in name or "lm_head" in name:
            continue
        rows = shards.rows(name, SAMPLE_ROWS)
        if rows.numel() > 1 and find_baked_scale(rows):
            return True
    return False


def find_baked_scale(weight: Tensor) -> float | None:
    """Return s if *weight* holds only -s, 0 and +s (0.0 if only zeros), else None."""
    scale = float(weight[:1].abs().max()) or float(weight.abs().max())
    for block in iterate_blocks(weight):
        magnitude = block.abs()
        if not bool(((magnitude == scale) | (magnitude == 0)).all()):
            return None
    return scale


def is_all_baked(path: Path, config: dict[str, Any], shards: Shards) -> bool:
    """Return whether every layer that ternary training would change is baked.

    BenchError if only some are: it is then unknown whether the others are masters or were kept in float.
    """
    from bitnet_bench.checkpoints.building import list_ternary_shapes

    found = {}
    for name in list_ternary_shapes(config):
        if f"{name}.weight" in shards.headers:
            found[name] = find_baked_scale(shards.tensor(f"{name}.weight")) is not None
    if not any(found.values()):
        return False
    odd = next((name for name, baked in found.items() if not baked), None)
    if odd is not None:
        raise BenchError(
            f"{path} holds ternary values in some layers but not in {shards.locate_tensor(f'{odd}.weight')}.",
            "Whether the others are to be quantized is not known: add the quantization_config it was trained with.",
        )
    return True


def codes_from_baked(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 codes [N, K] and the float32 scale s of baked *weight*; an all-zero layer gets the smallest scale.

    Its scale cannot be known and does not matter: every product is zero.
    """
    scale = weight.abs().max().float()
    return weight.sign().to(torch.int8), scale.clamp(min=SMALLEST_SCALE) if scale == 0 else scale
