"""Recognise weights that were quantized before they were saved: every value of a layer is -s, 0 or +s.

Quantizing them again would keep the codes and shrink the scale by the share of non-zeros, so they must be told apart
from masters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bitnet_bench.checkpoints.shards import Shards, iterate_blocks
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


def find_baked_layers(config: dict[str, Any], shards: Shards) -> dict[str, bool]:
    """Return of every layer that ternary training would change whether it is baked."""
    from bitnet_bench.checkpoints.building import list_ternary_shapes

    stored = [name for name in list_ternary_shapes(config) if f"{name}.weight" in shards.headers]
    return {name: find_baked_scale(shards.tensor(f"{name}.weight")) is not None for name in stored}


def codes_from_baked(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 codes [N, K] and the float32 scale s of baked *weight*; an all-zero layer gets the smallest scale.

    Its scale cannot be known and does not matter: every product is zero.
    """
    scale = weight.abs().max().float()
    return weight.sign().to(torch.int8), scale.clamp(min=SMALLEST_SCALE) if scale == 0 else scale
