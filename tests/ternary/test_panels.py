"""The kernel's layout: lossless, as documented, and refusing what it cannot hold."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_bench.ternary.panels import from_panels, panel_shape, to_panels


def random_codes(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(-1, 2, (rows, columns), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_unpacking_undoes_packing(rows: int, columns: int, seed: int) -> None:
    """from_panels(to_panels(codes)) is codes, for any number of rows and columns."""
    codes = random_codes(rows, columns, seed)
    packed = to_panels(codes)
    assert packed.dtype == torch.uint8
    assert tuple(packed.shape) == panel_shape(rows, columns)
    assert torch.equal(from_panels(packed, rows, columns), codes)


def test_each_code_is_where_the_documentation_says() -> None:
    """Row n, column 4 j + i of a step is in byte 4 n + i, bits 2 j and 2 j + 1, as code + 1."""
    codes = random_codes(35, 50)
    packed = to_panels(codes)
    for row in range(35):
        for column in range(50):
            (panel, n), (step, within) = divmod(row, 16), divmod(column, 16)
            j, i = divmod(within, 4)
            assert (int(packed[panel, step, 4 * n + i]) >> (2 * j)) & 3 == int(codes[row, column]) + 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [(lambda p: p.fill_(0xFF), "holds 3"), (lambda p: p.fill_(0xAA), "filling"), (lambda p: p[1:], "cannot hold")],
)
def test_what_is_no_panel_is_refused(damage: object, message: str) -> None:
    """Damage that can be seen is an error."""
    packed = damage(to_panels(random_codes(17, 17)))  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        from_panels(packed, 17, 17)


def test_codes_beyond_ternary_are_refused() -> None:
    """A 2 has no place in a 2-bit field that means code + 1."""
    with pytest.raises(ValueError, match="-1, 0 or"):
        to_panels(torch.tensor([[2]], dtype=torch.int8))
