"""The two quantizers of BitNet b1.58 against the equations, one element at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bitnet_bench.ternary.quantizer import absmean, masters_from_codes, quantize_activations, ternarize

SHAPES = [(1, 1), (1, 7), (7, 1), (13, 17), (31, 37), (64, 96)]
MATRICES = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-4, 4, width=32)
)
CODES = hnp.arrays(np.int8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=13), elements=st.integers(-1, 1))


def naive_codes(weight: np.ndarray, gamma: float) -> list[list[int]]:
    """Return clip(round(w / gamma), -1, 1) with a float32 division and Python's round half to even."""
    return [[max(-1, min(1, round(float(w / np.float32(gamma))))) for w in row] for row in weight]


def naive_activations(x: np.ndarray) -> tuple[list[list[int]], list[float]]:
    """Return (q, step) of eq. 4-5, a row at a time, every operation in float32."""
    q, steps = [], []
    for row in x:
        largest = np.float32(max(max(abs(float(v)) for v in row), np.float32(1e-5)))
        scale = np.float32(127.0) / largest
        q.append([max(-128, min(127, round(float(v * scale)))) for v in row])
        steps.append(float(largest / np.float32(127.0)))
    return q, steps


def check_weights(weight: np.ndarray) -> None:
    codes, gamma = ternarize(torch.from_numpy(weight))
    expected = max(math.fsum(abs(float(w)) for w in weight.flat) / weight.size, 1e-5)
    assert gamma.dtype == torch.float32
    assert gamma.shape == ()
    assert float(gamma) == pytest.approx(expected, rel=1e-6)
    assert codes.dtype == torch.int8
    assert codes.tolist() == naive_codes(weight, float(gamma))


def check_activations(x: np.ndarray) -> None:
    q, step = quantize_activations(torch.from_numpy(x))
    expected_q, expected_step = naive_activations(x)
    assert q.dtype == torch.int8
    assert q.tolist() == expected_q
    assert step.dtype == torch.float32
    assert step[:, 0].tolist() == expected_step


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_quantized_by_the_equation(shape: tuple[int, int]) -> None:
    """Codes and scale equal eq. 1-3 taken one element at a time, over awkward shapes."""
    check_weights(np.random.default_rng(sum(shape)).normal(0, 0.02, shape).astype(np.float32))


@settings(deadline=None, max_examples=50)
@given(MATRICES)
def test_any_weights_are_quantized_by_the_equation(weight: np.ndarray) -> None:
    """Codes and scale equal eq. 1-3 for weights that hypothesis thinks of: zeros, ties, subnormals."""
    check_weights(weight)


@pytest.mark.parametrize("shape", SHAPES)
def test_activations_are_quantized_by_the_equation(shape: tuple[int, int]) -> None:
    """Each row of activations is quantized by its own largest value, over awkward shapes."""
    check_activations(np.random.default_rng(sum(shape)).normal(0, 3, shape).astype(np.float32))


@settings(deadline=None, max_examples=50)
@given(MATRICES)
def test_any_activations_are_quantized_by_the_equation(x: np.ndarray) -> None:
    """Codes and steps equal eq. 4-5 for activations that hypothesis thinks of."""
    check_activations(x)


def test_leading_dimensions_are_rows() -> None:
    """Activations [B, T, K] are quantized as B * T rows, and keep their shape."""
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    q, step = quantize_activations(x)
    flat_q, flat_step = quantize_activations(x.reshape(6, 5))
    assert q.shape == x.shape
    assert step.shape == (2, 3, 1)
    assert torch.equal(q.reshape(6, 5), flat_q)
    assert torch.equal(step.reshape(6, 1), flat_step)


def test_weights_half_way_round_to_even() -> None:
    """With gamma 1, half rounds to 0 on both sides, and three halves to 2 and so to 1."""
    codes, gamma = ternarize(torch.tensor([[0.5, -0.5, 1.5, -1.5]]))
    assert float(gamma) == 1.0
    assert codes.tolist() == [[0, 0, 1, -1]]


def test_activations_half_way_round_to_even() -> None:
    """With step 1, 0.5 goes to 0, 1.5 and 2.5 to 2, and 3.5 to 4."""
    q, step = quantize_activations(torch.tensor([[127.0, 0.5, 1.5, 2.5, 3.5, -0.5, -1.5, -2.5]]))
    assert step.tolist() == [[1.0]]
    assert q.tolist() == [[127, 0, 2, 2, 4, 0, -2, -2]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_scale_of_narrow_weights_is_float32(dtype: torch.dtype) -> None:
    """The scale of bfloat16 weights is the float32 mean of those very weights, not a bfloat16 mean."""
    narrow = (torch.randn(61, 67, generator=torch.Generator().manual_seed(1)) * 0.03).to(dtype)
    assert absmean(narrow).dtype == torch.float32
    assert torch.equal(absmean(narrow), absmean(narrow.float()))
    assert absmean(narrow) != narrow.abs().mean().float()
    assert torch.equal(ternarize(narrow)[0], ternarize(narrow.float())[0])


def test_narrow_activations_are_quantized_in_float32() -> None:
    """Activations in bfloat16 have the codes and the float32 step of the same numbers in float32."""
    narrow = torch.randn(5, 67, generator=torch.Generator().manual_seed(2)).bfloat16()
    for got, expected in zip(quantize_activations(narrow), quantize_activations(narrow.float()), strict=True):
        assert got.dtype == expected.dtype
        assert torch.equal(got, expected)


def test_zero_weights_have_the_smallest_scale() -> None:
    """A layer of zeros has codes of zeros and the scale 1e-5, never a division by zero."""
    codes, gamma = ternarize(torch.zeros(3, 5))
    assert not codes.any()
    assert float(gamma) == pytest.approx(1e-5)


def test_zero_activations_are_zero() -> None:
    """A row of zeros has codes of zeros and a finite step."""
    q, step = quantize_activations(torch.zeros(2, 3))
    assert not q.any()
    assert bool(step.isfinite().all())


@settings(deadline=None, max_examples=50)
@given(CODES, st.floats(2**-10, 8, width=32))
def test_masters_keep_codes_and_scale(codes: np.ndarray, gamma: float) -> None:
    """Masters made of codes quantize to the same codes, and to the same scale within 1e-6."""
    assume(codes.any())
    again, scale = ternarize(masters_from_codes(torch.from_numpy(codes), torch.tensor(gamma)))
    assert again.tolist() == codes.tolist()
    assert float(scale) == pytest.approx(gamma, rel=1e-6)


def test_codes_times_scale_alone_shrink_the_scale_by_the_density() -> None:
    """Quantizing codes * gamma again keeps the codes and multiplies the scale by the share of non-zeros."""
    codes = torch.tensor([[1, 0, -1, 0], [0, 0, 1, 0]], dtype=torch.int8)
    again, scale = ternarize(codes.float() * 0.5)
    assert torch.equal(again, codes)
    assert float(scale) == pytest.approx(0.5 * 3 / 8)


def test_masters_of_a_zero_layer_are_zero() -> None:
    """A layer without a non-zero code has masters of zeros, not NaN."""
    assert torch.equal(masters_from_codes(torch.zeros(4, 3, dtype=torch.int8), torch.tensor(0.5)), torch.zeros(4, 3))
