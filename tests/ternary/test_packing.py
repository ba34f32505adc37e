"""Four codes in a byte: lossless, in transformers' layout, and refusing what it cannot hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_bench.ternary.packing import pack, unpack


def random_codes(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(-1, 2, (rows, columns), dtype=np.int8))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(1, 17), st.integers(0, 2**32 - 1))
def test_unpacking_undoes_packing(quarter: int, columns: int, seed: int) -> None:
    """unpack(pack(codes)) is codes, for any number of columns and any multiple of four rows."""
    codes = random_codes(4 * quarter, columns, seed)
    packed = pack(codes)
    assert packed.dtype == torch.uint8
    assert packed.shape == (quarter, columns)
    assert torch.equal(unpack(packed), codes)
    assert unpack(packed).dtype == torch.int8


@pytest.mark.parametrize(("rows", "columns"), [(4, 1), (8, 3), (52, 31), (96, 64)])
def test_packing_is_transformers_layout(rows: int, columns: int) -> None:
    """The bytes are those of transformers' pack_weights."""
    from transformers.integrations.bitnet import pack_weights

    codes = random_codes(rows, columns, seed=rows)
    assert torch.equal(pack(codes), pack_weights(codes.clone()))  # a clone: pack_weights adds 1 in place


def test_a_byte_holds_rows_a_quarter_apart_lowest_bits_first() -> None:
    """Byte row i holds rows i, i + R, i + 2R and i + 3R as code + 1."""
    codes = torch.tensor([[-1], [1], [0], [1], [1], [0], [-1], [-1]], dtype=torch.int8)
    assert pack(codes).tolist() == [[0 | 1 << 2 | 2 << 4 | 0 << 6], [2 | 2 << 2 | 1 << 4 | 0 << 6]]


def test_packing_leaves_its_input_alone() -> None:
    """pack() does not change the codes it is given, unlike transformers' pack_weights."""
    codes = random_codes(8, 5, seed=3)
    before = codes.clone()
    pack(codes)
    assert torch.equal(codes, before)


@pytest.mark.parametrize("field", range(4))
def test_a_field_of_three_is_refused(field: int) -> None:
    """3 is no ternary code: a byte that holds it anywhere is damaged or something else."""
    with pytest.raises(ValueError, match="holds 3"):
        unpack(torch.tensor([[0, 3 << (2 * field)]], dtype=torch.uint8))


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 98])
def test_rows_that_do_not_fill_bytes_are_refused(rows: int) -> None:
    """A row count that is no multiple of four is refused and not padded."""
    with pytest.raises(ValueError, match="no multiple of 4"):
        pack(torch.zeros(rows, 3, dtype=torch.int8))


@pytest.mark.parametrize("code", [2, -2, 127, -127])
def test_other_codes_are_refused(code: int) -> None:
    """A code outside -1, 0 and +1 is refused."""
    with pytest.raises(ValueError, match="-1, 0 or"):
        pack(torch.tensor([[0], [1], [-1], [code]], dtype=torch.int8))


def test_the_smallest_int8_is_refused_although_its_absolute_value_overflows() -> None:
    """-128 is no code, and abs(-128) is -128 in int8."""
    with pytest.raises(ValueError, match="-1, 0 or"):
        pack(torch.tensor([[0], [1], [-1], [-128]], dtype=torch.int8))
