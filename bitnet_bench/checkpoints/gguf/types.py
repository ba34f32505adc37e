"""Pack and unpack the tensor types of GGUF that hold ternary codes.

Layouts are those of ggml (`ggml-quants.c`; TQ1_0, TQ2_0, Q8_0 and Q4_0 through the `gguf` package) and, for I2_S, of
microsoft/BitNet as its x86 kernels read them (`quantize_to_i2_s`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bitnet_bench.runs.choices import GgufType

Form = GgufType
ExternalGgufType = Literal["tl1", "tl2"]
"""Types that bitnet.cpp's own converter writes, for the kernels of one build."""
Array = npt.NDArray[Any]
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

    def bytes(self, elements: int) -> int:
        """Return the bytes of a tensor of *elements* values."""
        return elements // self.block * self.block_bytes + (I2_S_TAIL_BYTES if self.name == "I2_S" else 0)

    def can_hold_rows(self, columns: int) -> bool:
        """Return whether rows of *columns* values are whole blocks."""
        return columns % self.block == 0


F32 = TensorType("F32", 0, 1, 4)
F16 = TensorType("F16", 1, 1, 2)
BF16 = TensorType("BF16", 30, 1, 2)
Q4_0 = TensorType("Q4_0", 2, 32, 18)
Q8_0 = TensorType("Q8_0", 8, 32, 34)
TQ1_0 = TensorType("TQ1_0", 34, 256, 54)
TQ2_0 = TensorType("TQ2_0", 35, 256, 66)
I2_S = TensorType("I2_S", 36, I2_S_BLOCK, I2_S_BLOCK // 4)
TL1, TL2 = TensorType("TL1", 38, 1, 0), TensorType("TL2", 39, 1, 0)
"""Types that are not read here: their layout and size depend on the kernels that a build was generated with."""
UNREADABLE_TYPES = (TL1, TL2)
Q2_0, Q2_0_G128 = TensorType("Q2_0", 42, 64, 18), TensorType("Q2_0", 42, 128, 34)
PQ2_0 = TensorType("PQ2_0", 142, 128, 34)
Q1_0 = TensorType("Q1_0", 41, 128, 18)
GROUP_TYPES = (Q2_0, Q2_0_G128, PQ2_0, Q1_0)
"""Types with a scale per group: `bitnet_bench.checkpoints.gguf.group_types`."""
TENSOR_TYPES = {
    kind.number: kind for kind in (F32, F16, BF16, Q4_0, Q8_0, TQ1_0, TQ2_0, I2_S, TL1, TL2, Q2_0, PQ2_0, Q1_0)
}
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
TERNARY_GGUF_TYPES: tuple[Form, ...] = ("tq1_0", "tq2_0", "i2_s", "q2_0")
"""Forms that hold codes and nothing else."""
TERNARY_TENSOR_TYPES = (*(TENSOR_TYPE_BY_NAME[form] for form in TERNARY_GGUF_TYPES if form != "q2_0"), *GROUP_TYPES)


def pack_tensor(values: Array, kind: TensorType, scale: float = 1.0) -> Array:
    """Return the bytes of float32 or int8 *values* [rows, columns]; only I2_S stores *scale*."""
    if kind == TQ2_0:
        return _pack_tq2_0(values)
    if kind == I2_S:
        return _pack_i2_s(values, scale)
    floats = np.ascontiguousarray(values, dtype=np.float32)
    if kind in (F32, F16):
        return floats.astype(np.float32 if kind == F32 else np.float16).view(np.uint8)
    from gguf import GGMLQuantizationType, quants

    packed: Array = quants.quantize(floats, GGMLQuantizationType(kind.number)).view(np.uint8)
    return packed


def unpack_tensor(data: Array, kind: TensorType, shape: tuple[int, ...]) -> Array:
    """Return float32 values of *shape* from the bytes of a tensor; for I2_S the codes, without their scale."""
    if kind == I2_S:
        return _unpack_i2_s(data, shape)
    if kind in GROUP_TYPES:
        from bitnet_bench.checkpoints.gguf.group_types import dequantize_groups

        return dequantize_groups(data, kind, shape)
    if kind in (F32, F16):
        return data.view(np.float32 if kind == F32 else np.float16).astype(np.float32).reshape(shape)
    from gguf import GGMLQuantizationType, quants

    rows = data.reshape(-1, kind.bytes(shape[-1]))
    values: Array = quants.dequantize(rows, GGMLQuantizationType(kind.number)).reshape(shape)
    return values


def read_i2_s_scale(data: Array) -> float:
    """Return the scale after the codes of an I2_S tensor."""
    return float(data[-I2_S_TAIL_BYTES : -I2_S_TAIL_BYTES + 4].view(np.float32)[0])


def _pack_tq2_0(codes: Array) -> Array:
    """Return blocks of 256 codes: 64 bytes of four 2-bit values each, 32 apart, and a float16 scale of 1."""
    values = (codes.astype(np.int8) + 1).astype(np.uint8).reshape(-1, 2, 4, 32)
    packed = values[:, :, 0] | values[:, :, 1] << 2 | values[:, :, 2] << 4 | values[:, :, 3] << 6
    scales = np.broadcast_to(np.array([1.0], dtype=np.float16).view(np.uint8), (len(values), 2))
    return np.concatenate([packed.reshape(-1, 64), scales], axis=1)


def _pack_i2_s(codes: Array, scale: float) -> Array:
    """Return 32 bytes for every 128 codes, the first 32 codes in the highest bits, followed by the scale."""
    values = (codes.astype(np.int8) + 1).astype(np.uint8).reshape(-1, 4, 32)
    packed = values[:, 0] << 6 | values[:, 1] << 4 | values[:, 2] << 2 | values[:, 3]
    tail = np.zeros(I2_S_TAIL_BYTES, dtype=np.uint8)
    tail[:4] = np.array([scale], dtype=np.float32).view(np.uint8)
    return np.concatenate([packed.reshape(-1), tail])


def _unpack_i2_s(data: Array, shape: tuple[int, ...]) -> Array:
    blocks = data[:-I2_S_TAIL_BYTES].reshape(-1, 1, 32) >> np.array([6, 4, 2, 0], dtype=np.uint8).reshape(1, 4, 1) & 3
    return blocks.astype(np.float32).reshape(shape) - 1
