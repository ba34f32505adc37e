"""Pack and unpack the tensor types of GGUF.

Layouts are those of ggml (`ggml-quants.c`, `ggml-common.h`; most through the `gguf` package) and, for I2_S, of
microsoft/BitNet (`quantize_i2_s` in `src/ggml-bitnet-mad.cpp` at 16da220).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bitnet_bench.runs.choices import EmbeddingType, GgufType

Form = GgufType
ExternalGgufType = Literal["tl1", "tl2"]
"""Types that bitnet.cpp's own converter writes, for the kernels of one build."""
Array = npt.NDArray[Any]
I2sOrder = Literal["x86", "arm", "rows"]
"""Order of the codes of an I2_S tensor, which depends on the build that wrote the file and is not noted in it.

rows: a byte holds a column of four rows, as x86 builds without ACT_PARALLEL in `include/gemm-config.h` write it.
"""
I2_S_BLOCK = 128
I2_S_TAIL_BYTES = 32
"""Number of bytes after the codes: the float32 scale, and padding."""
LARGEST_Q8 = 127


@dataclass(frozen=True)
class TensorType:
    """A tensor type of ggml: its number in a file, the values per block of a row, and the bytes per block."""

    name: str
    number: int
    block: int
    block_bytes: int
    scales: tuple[int, ...] = ()
    """Offsets in a block of the float16 values that all others are multiples of."""

    def bytes(self, elements: int) -> int:
        """Return the bytes of a tensor of *elements* values."""
        return elements // self.block * self.block_bytes + (I2_S_TAIL_BYTES if self.name == "I2_S" else 0)

    def can_hold_rows(self, columns: int) -> bool:
        """Return whether rows of *columns* values are whole blocks."""
        return columns % self.block == 0


F32 = TensorType("F32", 0, 1, 4)
F16 = TensorType("F16", 1, 1, 2)
BF16 = TensorType("BF16", 30, 1, 2)
Q4_0 = TensorType("Q4_0", 2, 32, 18, (0,))
Q4_1 = TensorType("Q4_1", 3, 32, 20, (0, 2))
Q5_0 = TensorType("Q5_0", 6, 32, 22, (0,))
Q5_1 = TensorType("Q5_1", 7, 32, 24, (0, 2))
Q8_0 = TensorType("Q8_0", 8, 32, 34, (0,))
Q2_K = TensorType("Q2_K", 10, 256, 84, (80, 82))
Q3_K = TensorType("Q3_K", 11, 256, 110, (108,))
Q4_K = TensorType("Q4_K", 12, 256, 144, (0, 2))
Q5_K = TensorType("Q5_K", 13, 256, 176, (0, 2))
Q6_K = TensorType("Q6_K", 14, 256, 210, (208,))
IQ4_NL = TensorType("IQ4_NL", 20, 32, 18, (0,))
IQ4_XS = TensorType("IQ4_XS", 23, 256, 136, (0,))
TQ1_0 = TensorType("TQ1_0", 34, 256, 54, (52,))
TQ2_0 = TensorType("TQ2_0", 35, 256, 66, (64,))
I2_S = TensorType("I2_S", 36, I2_S_BLOCK, I2_S_BLOCK // 4)
TL1, TL2 = TensorType("TL1", 38, 1, 0), TensorType("TL2", 39, 1, 0)
"""Types that are not read here: their layout and size depend on the kernels that a build was generated with."""
UNREADABLE_TYPES = (TL1, TL2)
Q2_0, Q2_0_G128 = TensorType("Q2_0", 42, 64, 18, (0,)), TensorType("Q2_0_G128", 42, 128, 34, (0,))
"""llama.cpp's type, and what was written under its number before, which llama.cpp would misread."""
PQ2_0 = TensorType("PQ2_0", 142, 128, 34, (0,))
Q1_0 = TensorType("Q1_0", 41, 128, 18, (0,))
GROUP_TYPES = (Q2_0, Q2_0_G128, PQ2_0, Q1_0)
"""Types with a scale per group: `bitnet_bench.checkpoints.gguf.group_types`."""
FOREIGN_TYPES = (Q2_0_G128, PQ2_0)
"""Types that llama.cpp itself does not read: PrismML's fork does."""
FLOAT_TYPES = (F32, F16, BF16)
DECODED_AT_ONCE = 2**20
"""Values of a type in blocks that are decoded at a time: 4 MiB of float32."""
BLOCK_TYPES = (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS)
"""Types of rounded floats, which are decoded to float32."""
TENSOR_TYPES = {
    kind.number: kind for kind in (*FLOAT_TYPES, *BLOCK_TYPES, TQ1_0, TQ2_0, I2_S, TL1, TL2, Q2_0, PQ2_0, Q1_0)
}
I2S_GROUPS: dict[I2sOrder, int] = {"x86": 32, "arm": 16, "rows": 0}
"""Codes that lie side by side in an I2_S tensor: four times as many make a block, the first in the highest bits."""
TENSOR_TYPE_BY_NAME: dict[Form | ExternalGgufType, TensorType] = {
    "f16": F16,
    "bf16": BF16,
    "q8_0": Q8_0,
    "q4_0": Q4_0,
    "tq1_0": TQ1_0,
    "tq2_0": TQ2_0,
    "i2_s": I2_S,
    "q2_0": Q2_0,
    "tl1": TL1,
    "tl2": TL2,
}
EMBEDDING_TYPES: dict[EmbeddingType, TensorType] = {"f16": F16, "bf16": BF16, "q8_0": Q8_0, "q6_k": Q6_K}
TERNARY_GGUF_TYPES: tuple[Form, ...] = ("tq1_0", "tq2_0", "i2_s", "q2_0")
"""Forms that hold codes and nothing else."""
TERNARY_TENSOR_TYPES = (*(TENSOR_TYPE_BY_NAME[form] for form in TERNARY_GGUF_TYPES if form != "q2_0"), *GROUP_TYPES)


def find_type(number: int, block: int) -> TensorType:
    """Return the type of *number* with blocks of *block* values."""
    return Q2_0_G128 if (number, block) == (Q2_0_G128.number, Q2_0_G128.block) else TENSOR_TYPES[number]


def pack_tensor(values: Array, kind: TensorType, scale: float = 1.0) -> Array:
    """Return the bytes of float32 or int8 *values* [rows, columns]; only I2_S stores *scale*."""
    if kind == TQ2_0:
        return _pack_tq2_0(values)
    if kind == I2_S:
        return pack_i2_s(values, scale)
    if kind == Q6_K:
        from bitnet_bench.checkpoints.gguf.q6_k import quantize_q6_k

        return quantize_q6_k(values)
    floats = np.ascontiguousarray(values, dtype=np.float32)
    if kind in (F32, F16):
        return floats.astype(np.float32 if kind == F32 else np.float16).view(np.uint8)
    from gguf import GGMLQuantizationType, quants

    packed: Array = quants.quantize(floats, GGMLQuantizationType(kind.number)).view(np.uint8)
    return packed


def unpack_tensor(data: Array, kind: TensorType, shape: tuple[int, ...], order: I2sOrder = "x86") -> Array:
    """Return float32 values of *shape* from the bytes of a tensor; for I2_S the codes, without their scale."""
    if kind == I2_S:
        return _unpack_i2_s(data, shape, order).astype(np.float32)
    if kind in GROUP_TYPES:
        from bitnet_bench.checkpoints.gguf.group_types import dequantize_groups

        return dequantize_groups(data, kind, shape)
    if kind in (F32, F16):
        return data.view(np.float32 if kind == F32 else np.float16).astype(np.float32).reshape(shape)
    from gguf import GGMLQuantizationType, quants

    rows = data.reshape(-1, kind.bytes(shape[-1]))
    values = np.empty((len(rows), shape[-1]), dtype=np.float32)
    step = max(1, DECODED_AT_ONCE // shape[-1])
    for start in range(0, len(rows), step):  # gguf's temporaries are several times as large as what it decodes
        values[start : start + step] = quants.dequantize(rows[start : start + step], GGMLQuantizationType(kind.number))
    return values.reshape(shape)


def unpack_codes(data: Array, kind: TensorType, shape: tuple[int, ...], order: I2sOrder = "x86") -> Array:
    """Return the int8 codes of *shape* of a TQ1_0, TQ2_0 or I2_S tensor; code 3, which none writes, comes out as 2."""
    if kind == I2_S:
        return _unpack_i2_s(data, shape, order)
    blocks = data.reshape(-1, kind.block_bytes)
    if kind == TQ2_0:
        codes = _unpack_2_bits(blocks[:, :64].reshape(-1, 2, 32), (0, 2, 4, 6))
    else:
        ones = blocks.copy()
        ones[:, kind.scales[0] :] = np.array([1.0], dtype=np.float16).view(np.uint8)  # the codes themselves are wanted
        codes = unpack_tensor(ones.reshape(-1), kind, shape).astype(np.int8)
    return codes.reshape(shape)


def read_scales(data: Array, kind: TensorType) -> Array:
    """Return the float16 scales [blocks, scales per block] of a tensor of *kind*, in float32."""
    blocks = data.reshape(-1, kind.block_bytes)
    found = [blocks[:, at : at + 2].copy().view(np.float16)[:, 0] for at in kind.scales]
    return np.stack(found, axis=1).astype(np.float32)


def count_2bit_codes(data: Array, kind: TensorType) -> Array:
    """Return how many of the 2-bit values of a TQ2_0 or I2_S tensor are 0, 1, 2 and 3: codes -1, 0, +1 and none."""
    packed = data[:-I2_S_TAIL_BYTES] if kind == I2_S else data.reshape(-1, kind.block_bytes)[:, :64]
    by_byte = np.bincount(packed.reshape(-1), minlength=256).reshape(4, 4, 4, 4)
    return np.array([sum(by_byte.take(code, axis).sum() for axis in range(4)) for code in range(4)])


def read_i2_s_scale(data: Array) -> float:
    """Return the scale after the codes of an I2_S tensor."""
    return float(data[-I2_S_TAIL_BYTES : -I2_S_TAIL_BYTES + 4].view(np.float32)[0])


def _pack_tq2_0(codes: Array) -> Array:
    """Return blocks of 256 codes: 64 bytes of four 2-bit values each, 32 apart, and a float16 scale of 1."""
    values = (codes.astype(np.int8) + 1).astype(np.uint8).reshape(-1, 2, 4, 32)
    packed = values[:, :, 0] | values[:, :, 1] << 2 | values[:, :, 2] << 4 | values[:, :, 3] << 6
    scales = np.broadcast_to(np.array([1.0], dtype=np.float16).view(np.uint8), (len(values), 2))
    return np.concatenate([packed.reshape(-1, 64), scales], axis=1)


def pack_i2_s(codes: Array, scale: float, order: I2sOrder = "x86") -> Array:
    """Return bytes of four codes each, the first group of codes in the highest bits, followed by the scale."""
    width = I2S_GROUPS[order] or codes.shape[-1]
    values = (codes.astype(np.int8) + 1).astype(np.uint8).reshape(-1, 4, width)
    packed = values[:, 0] << 6 | values[:, 1] << 4 | values[:, 2] << 2 | values[:, 3]
    tail = np.zeros(I2_S_TAIL_BYTES, dtype=np.uint8)
    tail[:4] = np.array([scale], dtype=np.float32).view(np.uint8)
    return np.concatenate([packed.reshape(-1), tail])


def _unpack_i2_s(data: Array, shape: tuple[int, ...], order: I2sOrder) -> Array:
    packed = data[:-I2_S_TAIL_BYTES].reshape(-1, I2S_GROUPS[order] or shape[-1])
    return _unpack_2_bits(packed, (6, 4, 2, 0)).reshape(shape)


def _unpack_2_bits(packed: Array, shifts: tuple[int, ...]) -> Array:
    """Return int8 codes [..., 4, width] of bytes [..., width]: the values less 1, those of the first shift first.

    One shift after another takes a quarter of the memory that all at once do.
    """
    codes = np.empty((*packed.shape[:-1], len(shifts), packed.shape[-1]), np.int8)
    for place, shift in enumerate(shifts):
        codes[..., place, :] = packed >> shift & 3
    codes -= 1
    return codes
