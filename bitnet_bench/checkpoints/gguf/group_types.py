"""Pack and unpack the tensor types of GGUF that hold ternary or binary codes with one float16 scale per group.

A block is one group of a row: a float16 scale d, then the codes, lowest bits first. Q2_0 and PQ2_0 hold two bits c per
weight, w = (c - 1) d; Q1_0 holds one bit b, w = (2 b - 1) d (llama.cpp at 01243c5: `ggml-common.h`, and
`dequantize_row_q2_0` and `dequantize_row_q1_0` of `ggml-quants.c`; pull requests 24448, 25419, 25430, 25707). Groups of
Q2_0 are 64 wide in llama.cpp and 128 wide in files that PrismML's fork wrote before that, under the same number; PQ2_0
is the name of the latter today.

Codes and scales are returned in one canonical form, so that equal weights have equal codes and scales: a scale is never
negative, and it is 0 exactly where all codes of its group are 0.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bitnet_bench.checkpoints.gguf.types import Q1_0, Q2_0, Q2_0_G128, Array, TensorType, read_scales

SCALE_BYTES = 2


def find_q2_0_type(spans: Iterable[tuple[tuple[int, ...], int]], alignment: int) -> TensorType:
    """Return the type of a file's tensors of number 42, by (shape, bytes up to the next tensor or the end of the file).

    A file holds either kind and does not say which. Tensors of less than 2,048 values may fit both; if all do, it is
    llama.cpp's. ValueError if neither fits.
    """
    tensors = tuple(spans)
    for kind in (Q2_0, Q2_0_G128):
        if all(_fills(kind, shape, span, alignment) for shape, span in tensors):
            return kind
    raise ValueError("tensors of type Q2_0 have the size of neither groups of 64 nor groups of 128")


def _fills(kind: TensorType, shape: tuple[int, ...], span: int, alignment: int) -> bool:
    size = kind.bytes(int(np.prod(shape)))
    return kind.can_hold_rows(shape[-1]) and size <= span <= -(-size // alignment) * alignment


def unpack_codes(data: Array, kind: TensorType, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Return (codes int8 [N, K], scales float32 [N, K / group]) of the bytes of a tensor, in the canonical form.

    ValueError if a code is +2, which Q2_0 allows and no ternary model has, or if a scale is not finite.
    """
    codes, scales = _split_blocks(data, kind)
    if (codes == 2).any():
        raise ValueError(f"{kind.name} holds a code of +2, which is not ternary")
    if not np.isfinite(scales).all():
        raise ValueError(f"a scale of {kind.name} is NaN or infinite")
    return canonical_groups(codes.reshape(shape), scales.reshape(shape[0], -1))


def dequantize_groups(data: Array, kind: TensorType, shape: tuple[int, ...]) -> Array:
    """Return the float32 weights of *shape*, for any code, as llama.cpp computes them."""
    codes, scales = _split_blocks(data, kind)
    weights: Array = (codes * scales[:, None]).reshape(shape)
    return weights


def pack_codes(codes: Array, scales: Array, kind: TensorType) -> Array:
    """Return the bytes, uint8 [blocks, block bytes], for int8 codes [N, K] and float scales [N, K / group].

    ValueError if float16 does not hold a scale exactly, if a code is not -1, 0 or +1, or, for Q1_0, if a group has both
    0 and another code.
    """
    blocks, stored = codes.reshape(-1, kind.block), scales.astype(np.float16).reshape(-1)
    if codes.shape != (scales.shape[0], scales.shape[1] * kind.block):
        raise ValueError(f"scales {scales.shape} do not belong to codes {codes.shape} in groups of {kind.block}")
    if (np.abs(codes) > 1).any():
        raise ValueError("codes must be -1, 0 or +1")
    if (stored.astype(scales.dtype) != scales.reshape(-1)).any():
        raise ValueError("a scale is not exact in float16")
    if kind != Q1_0:
        fields = (blocks + 1).astype(np.uint8).reshape(len(blocks), -1, 4)
        packed: Array = fields[..., 0] | fields[..., 1] << 2 | fields[..., 2] << 4 | fields[..., 3] << 6
    elif ((blocks == 0).any(axis=1) & (stored != 0)).any():
        raise ValueError("Q1_0 holds -1 and +1 only, and a code is 0")
    else:
        packed = np.packbits(blocks >= 0, axis=1, bitorder="little")
    return np.concatenate([stored.view(np.uint8).reshape(-1, SCALE_BYTES), packed], axis=1)


def canonical_groups(codes: Array, scales: Array) -> tuple[Array, Array]:
    """Return codes [N, K] and scales [N, groups] that stand for the same weights, in the canonical form."""
    groups = codes.reshape(*scales.shape, -1)
    codes = groups * np.sign(scales).astype(np.int8)[..., None]
    return codes.reshape(len(scales), -1), np.where(codes.any(axis=-1), np.abs(scales), np.float32(0))


def split_groups(codes: Array, scales: Array, group: int) -> Array:
    """Return the scales [N, K / *group*] of the same codes in smaller groups."""
    wider = codes.shape[1] // scales.shape[1]
    return canonical_groups(codes, np.repeat(scales, wider // group, axis=1))[1]


def merge_groups(codes: Array, scales: Array, group: int) -> Array | None:
    """Return the scales [N, K / *group*] of the same codes in wider groups, or None if their scales differ."""
    if codes.shape[1] % group:
        return None
    parts = scales.reshape(len(scales), codes.shape[1] // group, -1)
    merged: Array = parts.max(axis=-1)
    return merged if ((parts == 0) | (parts == merged[..., None])).all() else None


def _split_blocks(data: Array, kind: TensorType) -> tuple[Array, Array]:
    """Return (codes int8 [blocks, group], scales float32 [blocks]) as stored."""
    blocks = data.reshape(-1, kind.block_bytes)
    scales = read_scales(data, kind)[:, 0]
    packed = blocks[:, SCALE_BYTES:]
    if kind == Q1_0:
        return 2 * np.unpackbits(packed, axis=1, bitorder="little").astype(np.int8) - 1, scales
    fields = packed[:, :, None] >> np.array([0, 2, 4, 6], dtype=np.uint8) & 3
    return fields.astype(np.int8).reshape(len(blocks), -1) - 1, scales
