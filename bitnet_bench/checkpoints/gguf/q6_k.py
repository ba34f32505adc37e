"""Round floats to Q6_K, the type that bitnet.cpp recommends for token embeddings; the `gguf` package only decodes it.

A block of 256 values has a float16 scale, an 8-bit scale for each 16 values, and 6 bits a value. As ggml's
`quantize_row_q6_K_ref` (`ggml-quants.c`), in float32, so that its bytes are the same.
"""

from __future__ import annotations

import numpy as np

from bitnet_bench.checkpoints.gguf.types import Array

BLOCK, GROUP, LARGEST = 256, 16, 32
SMALLEST_VALUE = np.float32(1e-15)
"""Values below it are 0."""
TRIED_STEPS = (0, *range(-9, 0), *range(1, 10))
"""Tenths that the largest value's code is moved by, to find the scale with the least error; 0 comes first."""
BLOCKS_AT_ONCE = 4096


def quantize_q6_k(values: Array) -> Array:
    """Return the bytes of float32 *values* [rows, columns], whose columns are whole blocks."""
    blocks = np.ascontiguousarray(values, dtype=np.float32).reshape(-1, BLOCK)
    parts = [_quantize(blocks[i : i + BLOCKS_AT_ONCE]) for i in range(0, len(blocks), BLOCKS_AT_ONCE)]
    return np.concatenate(parts).reshape(-1)


def _quantize(blocks: Array) -> Array:
    """Return the bytes [blocks, 210] of float32 *blocks* [blocks, 256]."""
    groups = blocks.reshape(-1, GROUP, GROUP)
    scales, codes = _fit_groups(groups.reshape(-1, GROUP))
    scales = scales.reshape(-1, GROUP)
    rows = np.arange(len(scales))
    widest = scales[rows, np.abs(scales).argmax(axis=1)]
    used = np.abs(widest) >= SMALLEST_VALUE
    inverse = np.divide(np.float32(-128), widest, out=np.zeros_like(widest), where=used)
    block_scales = np.divide(np.float32(1), inverse, out=np.zeros_like(inverse), where=used).astype(np.float16)
    group_scales = np.minimum(127, np.rint(inverse[:, None] * scales)).astype(np.int8)
    steps = block_scales.astype(np.float32)[:, None] * group_scales
    rounded = np.rint(np.divide(groups, steps[:, :, None], out=np.zeros_like(groups), where=steps[:, :, None] != 0))
    codes = np.where(steps[:, :, None] != 0, _clip(rounded), codes.reshape(groups.shape))
    stored = np.where(used[:, None, None], codes + LARGEST, 0).astype(np.uint8).reshape(-1, 2, 4, 32)
    low, high = stored & 15, stored >> 4
    packed_low = np.concatenate([low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], axis=2)
    packed_high = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    return np.concatenate(
        [
            packed_low.reshape(-1, 128),
            packed_high.reshape(-1, 64),
            np.where(used[:, None], group_scales, np.int8(0)).view(np.uint8),
            block_scales.view(np.uint8).reshape(-1, 2),
        ],
        axis=1,
    )


def _fit_groups(groups: Array) -> tuple[Array, Array]:
    """Return the scale of each group [N, 16] and its codes, -32 to 31, with the least error weighted by x^2."""
    widest = groups[np.arange(len(groups)), np.abs(groups).argmax(axis=1)]
    used = np.abs(widest) >= SMALLEST_VALUE
    safe = np.where(used, widest, np.float32(1))
    weights = groups * groups
    scale, best = np.zeros(len(groups), np.float32), np.zeros(len(groups), np.float32)
    codes = np.full(groups.shape, -LARGEST, np.float32)  # what ggml stores in a group of zeros
    for step in TRIED_STEPS:
        inverse = -(np.float32(LARGEST) + np.float32(0.1) * np.float32(step)) / safe
        tried = _clip(np.rint(inverse[:, None] * groups))
        along = _add_up(weights * groups * tried)
        length = _add_up(weights * tried * tried)
        better = used & (length > 0) & ((along * along > best * length) if step else np.True_)
        scale = np.where(better, np.divide(along, length, out=np.zeros_like(along), where=length > 0), scale)
        best = np.where(better, scale * along, best)
        codes = np.where(better[:, None], tried, codes)
    return scale, codes


def _add_up(rows: Array) -> Array:
    """Return the float32 sum of each row, added in order as C does it; numpy would add pairs."""
    found: Array = np.cumsum(rows, axis=1, dtype=np.float32)[:, -1]
    return found


def _clip(codes: Array) -> Array:
    return np.clip(codes, -LARGEST, LARGEST - 1)
