"""Blocks of ternary and binary codes with a float16 scale per group, against bytes that are spelled out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_bench.checkpoints.gguf.group_types import (
    canonical_groups,
    dequantize_groups,
    find_q2_0_type,
    merge_groups,
    pack_codes,
    split_groups,
    unpack_codes,
)
from bitnet_bench.checkpoints.gguf.types import GROUP_TYPES, PQ2_0, Q1_0, Q2_0, Q2_0_G128, Array, TensorType

HALF = bytes([0x00, 0x38])
"""0.5 in float16, little-endian."""
MINUS_TWO = bytes([0x00, 0xC0])


def test_q2_0_of_llama_cpp_is_a_scale_and_sixteen_bytes_with_the_first_code_in_the_lowest_bits() -> None:
    """0b10_01_00_01 is the codes 0, -1, 0, +1; a block is 18 bytes."""
    data = np.frombuffer(HALF + bytes([0b10_01_00_01]) + bytes([0b01_01_01_01] * 15), dtype=np.uint8)
    codes, scales = unpack_codes(data, Q2_0, (1, 64))
    assert codes[0, :4].tolist() == [0, -1, 0, 1]
    assert not codes[0, 4:].any()
    assert scales.tolist() == [[0.5]]
    assert dequantize_groups(data, Q2_0, (1, 64))[0, :4].tolist() == [0, -0.5, 0, 0.5]


@pytest.mark.parametrize("kind", [Q2_0_G128, PQ2_0])
def test_groups_of_128_are_a_scale_and_32_bytes(kind: TensorType) -> None:
    """The last code of a group is in the highest bits of its last byte."""
    data = np.frombuffer(HALF + bytes([0b01_01_01_01] * 31 + [0b00_01_01_01]), dtype=np.uint8)
    codes, scales = unpack_codes(data, kind, (1, 128))
    assert codes[0].tolist() == [0] * 127 + [-1]
    assert scales.tolist() == [[0.5]]


def test_q1_0_is_a_scale_and_sixteen_bytes_of_signs() -> None:
    """0b0000_0101: the first and third weight are +d, the others -d."""
    data = np.frombuffer(HALF + bytes([0b0000_0101] + [0] * 15), dtype=np.uint8)
    codes, scales = unpack_codes(data, Q1_0, (1, 128))
    assert codes[0].tolist() == [1, -1, 1] + [-1] * 125
    assert scales.tolist() == [[0.5]]


def test_a_negative_scale_is_a_positive_one_with_the_opposite_codes() -> None:
    """Equal weights have equal codes and scales, whoever wrote them."""
    data = np.frombuffer(MINUS_TWO + bytes([0b10_01_00_01]) + bytes([0b01_01_01_01] * 15), dtype=np.uint8)
    codes, scales = unpack_codes(data, Q2_0, (1, 64))
    assert (codes[0, :4].tolist(), scales.tolist()) == ([0, 1, 0, -1], [[2.0]])
    assert (codes * 2 == dequantize_groups(data, Q2_0, (1, 64))).all()


def test_a_code_of_two_is_a_weight_but_not_ternary() -> None:
    """llama.cpp decodes 0b11 as +2 d, so the float weights can be had, and the codes are refused."""
    data = np.frombuffer(HALF + bytes([0b11_01_01_01]) + bytes([0b01_01_01_01] * 15), dtype=np.uint8)
    assert dequantize_groups(data, Q2_0, (1, 64))[0, 3] == 1.0
    with pytest.raises(ValueError, match="not ternary"):
        unpack_codes(data, Q2_0, (1, 64))


def test_a_scale_that_is_not_a_number_is_refused() -> None:
    """0x7e00 is NaN in float16."""
    data = np.frombuffer(bytes([0x00, 0x7E] + [0x55] * 16), dtype=np.uint8)
    with pytest.raises(ValueError, match="NaN or infinite"):
        unpack_codes(data, Q2_0, (1, 64))


@given(st.sampled_from(GROUP_TYPES), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_packing_and_unpacking_give_every_code_and_scale_back(
    kind: TensorType, rows: int, groups: int, seed: int
) -> None:
    """Including groups whose codes are all 0 and whose scale is 0, for every type."""
    codes, scales = random_groups(rows, groups, kind.block, seed, binary=kind == Q1_0)
    data = pack_codes(codes, scales, kind)
    assert data.size == kind.bytes(codes.size)
    found = unpack_codes(data.reshape(-1), kind, (rows, groups * kind.block))
    assert (found[0] == codes).all()
    assert (found[1] == scales).all()
    assert found[0].dtype == np.int8
    assert found[1].dtype == np.float32
    weights = codes.reshape(rows, groups, -1) * scales[..., None]
    assert (dequantize_groups(data, kind, codes.shape) == weights.reshape(codes.shape)).all()


def test_what_a_type_cannot_hold_exactly_is_refused() -> None:
    """A scale beyond float16's precision, a code of 2, a zero among signs, and scales of another shape."""
    codes, scales = random_groups(2, 1, 128, 0, binary=False)
    with pytest.raises(ValueError, match="not exact in float16"):
        pack_codes(codes, scales * np.float32(1 + 2**-20), PQ2_0)
    with pytest.raises(ValueError, match=r"-1, 0 or \+1"):
        pack_codes(codes * 2, scales, PQ2_0)
    with pytest.raises(ValueError, match="a code is 0"):
        pack_codes(codes, np.ones_like(scales), Q1_0)
    with pytest.raises(ValueError, match="groups of 64"):
        pack_codes(codes, scales, Q2_0)


@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_groups_split_and_merge_to_what_they_were(rows: int, seed: int) -> None:
    """The codes stay, and weights do; groups of 64 with unequal scales do not merge."""
    codes, scales = random_groups(rows, 3, 128, seed, binary=False)
    halves = split_groups(codes, scales, 64)
    assert halves.shape == (rows, 6)
    weights = codes.reshape(rows, 3, 128) * scales[..., None]
    assert (codes.reshape(rows, 6, 64) * halves[..., None] == weights.reshape(rows, 6, 64)).all()
    merged = merge_groups(codes, halves, 128)
    assert merged is not None
    assert (merged == scales).all()
    codes[0, :128], halves[0, :2] = 1, (1.0, 2.0)
    assert merge_groups(codes, halves, 128) is None
    assert merge_groups(codes[:, :64], halves[:, :1], 128) is None


def test_the_size_of_the_tensors_tells_groups_of_64_from_groups_of_128() -> None:
    """Both have the number 42; a file of neither size is refused."""
    shapes = [(64, 256), (32, 128)]

    def spans(kind: TensorType, more: int = 0) -> list[tuple[tuple[int, ...], int]]:
        return [(shape, -(-kind.bytes(shape[0] * shape[1]) // 32) * 32 + more) for shape in shapes]

    assert find_q2_0_type(spans(Q2_0), 32) == Q2_0
    assert find_q2_0_type(spans(Q2_0_G128), 32) == Q2_0_G128
    with pytest.raises(ValueError, match="neither"):
        find_q2_0_type(spans(Q2_0, more=32), 32)


def random_groups(rows: int, groups: int, group: int, seed: int, *, binary: bool) -> tuple[Array, Array]:
    """Return codes and float16-exact scales in the canonical form; some groups are all zero."""
    random = np.random.default_rng(seed)
    codes = random.choice([-1, 1] if binary else [-1, 0, 1], (rows, groups, group)).astype(np.int8)
    codes[random.random((rows, groups)) < 0.2] = 0
    scales = random.uniform(1e-3, 2.0, (rows, groups)).astype(np.float16).astype(np.float32)
    return canonical_groups(codes.reshape(rows, -1), scales)
