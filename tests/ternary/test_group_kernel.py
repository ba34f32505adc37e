"""The kernel with a scale per group gives the bits of its formula in PyTorch, on every instruction set here."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitnet_bench.ternary import kernel
from bitnet_bench.ternary.groups import (
    DIGITS,
    canonical_scales,
    multiply_float,
    multiply_int8,
    quantize_activation_groups,
    scale_groups,
    split_digits,
)
from bitnet_bench.ternary.panels import scales_to_panels, to_panels

pytestmark = pytest.mark.skipif(kernel.load_library() is None, reason="the CPU kernel is not built here")
SHAPES = [
    (1, 64, 64, 1),
    (17, 192, 64, 5),
    (16, 128, 128, 1),
    (50, 256, 128, 13),
    (97, 384, 128, 25),
    (700, 512, 64, 12),
]
"""Rows, columns, group, tokens."""


def random_layer(rows: int, columns: int, group: int) -> tuple[Tensor, Tensor]:
    """Return codes, some groups all zero, and scales that float16 holds."""
    random = torch.Generator().manual_seed(rows)
    codes = torch.randint(-1, 2, (rows, columns), generator=random, dtype=torch.int8)
    codes[:, :group] *= torch.randint(0, 2, (rows, 1), generator=random, dtype=torch.int8)
    scales = torch.rand(rows, columns // group, generator=random).half().float()
    return codes, canonical_scales(codes, scales)


def join(*layers: tuple[Tensor, Tensor, Tensor | None], dtype: torch.dtype = torch.float16) -> kernel.JoinedLayers:
    parts = [(to_panels(codes), scales_to_panels(scales.to(dtype)), len(codes), bias) for codes, scales, bias in layers]
    return kernel.JoinedLayers(parts, layers[0][0].shape[1])


def run_int8(parts: kernel.JoinedLayers, x: Tensor, y: Tensor | None = None) -> Tensor:
    out = torch.empty(len(x), parts.rows) if y is None else y
    rows = kernel.QuantizedRows.empty(*x.shape, parts.group)
    kernel.quantize_rows(x, len(x), rows)
    parts(rows, len(x), out, add=y is not None)
    return out


def run_float(parts: kernel.JoinedLayers, x: Tensor, y: Tensor | None = None) -> Tensor:
    out = torch.empty(len(x), parts.rows) if y is None else y
    rows = kernel.QuantizedRows.empty(*x.shape, parts.group, DIGITS)
    kernel.quantize_rows(x, len(x), rows)
    parts(rows, len(x), out, add=y is not None)
    return out


@pytest.mark.parametrize(("rows", "columns", "group", "tokens"), SHAPES)
def test_every_path_is_the_formula_for_int8_activations(
    path: str, rows: int, columns: int, group: int, tokens: int
) -> None:
    """Exact sums of each group, then one multiplication and one addition in order: equal to the bit."""
    codes, scales = random_layer(rows, columns, group)
    x = torch.randn(tokens, columns)
    expected = multiply_int8(*quantize_activation_groups(x, group), codes, scales)
    assert torch.equal(run_int8(join((codes, scales, None)), x), expected)


@pytest.mark.parametrize(("rows", "columns", "group", "tokens"), SHAPES)
def test_every_path_is_the_formula_for_float_activations(
    path: str, rows: int, columns: int, group: int, tokens: int
) -> None:
    """Three digits of every activation: equal to the bit, and as near to the exact product as float32 is."""
    codes, scales = random_layer(rows, columns, group)
    x = torch.randn(tokens, columns)
    y = run_float(join((codes, scales, None)), x)
    assert torch.equal(y, multiply_float(x, codes, scales))
    wide, weights = x.double(), scale_groups(codes, scales).double()
    bound = 1e-6 * wide.norm(dim=1, keepdim=True) * weights.norm(dim=1)
    assert bool(((y - wide @ weights.t()).abs() <= bound).all())


def test_the_largest_sums_of_a_group_do_not_wrap(path: str) -> None:
    """128 codes of +1 and of -1, and activations at their limits, in 16-bit sums of bytes."""
    codes = torch.ones(20, 256, dtype=torch.int8)
    codes[10:] = -1
    x = torch.full((3, 256), -1.0)
    scales = torch.ones(20, 2)
    expected = multiply_int8(*quantize_activation_groups(x, 128), codes, scales)
    assert torch.equal(run_int8(join((codes, scales, None)), x), expected)
    assert expected[0, 0] < -255


@pytest.mark.parametrize("run", [run_int8, run_float])
def test_several_layers_with_biases_and_a_residual_are_one_call(run: object) -> None:
    """q, k and v of different heights stand side by side as if computed alone, on top of what was there."""
    assert callable(run)
    x, residual = torch.randn(7, 256), torch.randn(7, 73)
    layers = [
        (*random_layer(rows, 256, 128), torch.randn(rows) if biased else None)
        for rows, biased in ((40, True), (17, False), (16, True))
    ]
    alone = torch.cat([run(join(layer), x) for layer in layers], dim=1)
    assert torch.equal(run(join(*layers), x), alone)
    assert torch.equal(run(join(*layers), x, residual.clone()), residual + alone)


def test_scales_beyond_float16_are_kept_in_float32(path: str) -> None:
    """A scale of 1 + 2^-20 is not rounded."""
    codes, scales = random_layer(33, 128, 64)
    scales *= 1 + 2**-20
    x = torch.randn(3, 128)
    expected = multiply_int8(*quantize_activation_groups(x, 64), codes, scales)
    assert torch.equal(run_int8(join((codes, scales, None), dtype=torch.float32), x), expected)
    assert not torch.equal(run_int8(join((codes, scales, None)), x), expected)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("run", [run_int8, run_float])
def test_threads_do_not_change_a_bit(run: object) -> None:
    """One thread and two give the same."""
    assert callable(run)
    codes, scales = random_layer(700, 512, 128)
    x, results = torch.randn(40, 512), []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(run(join((codes, scales, None)), x))
    assert torch.equal(*results)


def test_activations_are_quantized_by_group_as_in_torch() -> None:
    """Codes, steps and sums of every group; the filling behind a row is 0."""
    x = torch.randn(9, 384, generator=torch.Generator().manual_seed(0))
    rows = kernel.QuantizedRows.empty(9, 384, 64)
    kernel.quantize_rows(x, 9, rows)
    q, steps = quantize_activation_groups(x, 64)
    assert torch.equal(rows.q[:, :384], q)
    assert torch.equal(rows.steps, steps)
    assert torch.equal(rows.sums, q.view(9, 6, 64).int().sum(-1, dtype=torch.int32))
    assert not rows.q[:, 384:].any()


@settings(deadline=None, max_examples=60)
@example([0.0] * 62 + [3.961341634793138e29, 1.2577471554718101e30])
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=64, max_size=64))
def test_three_digits_add_up_to_the_activations(values: list[float]) -> None:
    """Of any finite row, as in torch, to half of the last digit's step, and that is 1 / 63.5 of the largest at most."""
    x = torch.tensor([values])
    rows = kernel.QuantizedRows.empty(1, 64, 64, DIGITS)
    kernel.quantize_rows(x, 1, rows)
    q, steps = split_digits(x, 64)
    assert torch.equal(rows.q[:, :64], q[0])
    assert torch.equal(rows.steps, steps[0])
    assert torch.equal(rows.sums[:, 0], q[0].sum(-1, dtype=torch.int32))
    again = (q[0].double() * steps[0].double()).sum(0)
    assert float((again - x[0].double()).abs().max()) <= max(float(x.abs().max()), 1e-30) * 2**-15 / 63.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_rows_of_an_embedding_are_those_of_the_dense_table(dtype: torch.dtype) -> None:
    """Any ids in any order, from every lane of a panel, subnormal scales included."""
    codes, scales = random_layer(50, 256, 64)
    scales[3] = 2.0**-24
    ids = torch.tensor([0, 49, 3, 17, 17, 31])
    found = kernel.lookup_rows(to_panels(codes), scales_to_panels(scales.to(dtype)), ids, 256)
    assert torch.equal(found, scale_groups(codes, scales)[ids])


def test_layers_of_other_groups_are_refused() -> None:
    """Groups of 64 beside groups of 128, and activations in other groups than the layer's."""
    wide, narrow = random_layer(16, 128, 128), random_layer(16, 128, 64)
    with pytest.raises(ValueError, match="groups of one size"):
        join((*wide, None), (*narrow, None))
    with pytest.raises(ValueError, match="do not fit"):
        join((*wide, None))(kernel.QuantizedRows.empty(1, 128, 64), 1, torch.empty(1, 16))


@pytest.mark.parametrize("run", [run_int8, run_float])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_seen_in_the_output(run: object, value: float) -> None:
    """A NaN or an infinity in one row leaves no finite number in that row, and others alone."""
    assert callable(run)
    codes, scales = torch.ones(20, 128, dtype=torch.int8), torch.ones(20, 1)
    x = torch.randn(2, 128)
    x[0, 5] = value
    y = run(join((codes, scales, None)), x)
    assert not y[0].isfinite().any()
    assert y[1].isfinite().all()
