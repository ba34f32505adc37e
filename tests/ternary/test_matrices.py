"""The kernel's single passes over matrices against their definitions in PyTorch, to the bit."""

from __future__ import annotations

import pytest
import torch

from bitnet_bench.ternary import kernel
from bitnet_bench.ternary.linear import BitLinear, TernaryMatmul, _float32_gradients, _gradients, _ternarize_fastest
from bitnet_bench.ternary.quantizer import absmean, quantize_activations, ternarize

pytestmark = pytest.mark.skipif(kernel.load_library() is None, reason="the kernel was not built here")

SHAPES = [(1, 1), (3, 7), (16, 64), (17, 127), (33, 1024), (130, 259)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e-12, 1e-3, 1.0, 1e6])
def test_activations_are_quantized_as_defined(shape: tuple[int, int], size: float) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * size
    for given in (x, x.view(1, *shape)):
        (q, step), (expected, expected_step) = kernel.quantize(given), quantize_activations(given)
        assert q.shape == expected.shape
        assert step.shape == expected_step.shape
        assert torch.equal(q, expected)
        assert torch.equal(step, expected_step)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e-12, 0.02, 1.5, 1e6])
def test_weights_are_ternarized_as_defined(shape: tuple[int, int], size: float) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * size
    codes, gamma = ternarize(weight)
    assert torch.equal(kernel.ternarize(weight, gamma), codes)


def test_values_at_and_beside_a_boundary_round_as_defined() -> None:
    """Half goes to even, which is 0; the next float beside it does not."""
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    gamma = absmean(weight)
    half = gamma / 2
    edges = torch.stack([half, half.nextafter(gamma), half.nextafter(gamma * 0), 3 * half, gamma, gamma * 0])
    rows = torch.cat([edges, -edges]).repeat(3, 1)
    expected = (rows / gamma).round().clamp(-1, 1).to(torch.int8)
    assert torch.equal(kernel.ternarize(rows, gamma), expected)
    assert expected[0, :3].tolist() == [0, 1, 0]


@pytest.mark.parametrize("shape", SHAPES)
def test_scaling_is_multiplication(shape: tuple[int, int]) -> None:
    """Sums in place, beyond 2^24 too; codes into a new matrix."""
    generator = torch.Generator().manual_seed(1)
    sums = torch.randint(-(2**30), 2**30, shape, generator=generator, dtype=torch.int32)
    codes = torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)
    step, gamma = torch.rand(shape[0], 1, generator=generator), torch.tensor(0.37)
    assert torch.equal(kernel.scale_codes(codes, step), codes.float() * step)
    assert torch.equal(kernel.scale_codes(codes, None, float(gamma)), codes.float() * gamma)
    expected = sums.float().mul_(step * gamma)
    assert torch.equal(kernel.scale_sums(sums, step, gamma), expected)


def test_a_weight_that_is_no_number_is_seen_in_the_output() -> None:
    """A NaN makes the scale NaN, with the kernel as without it."""
    layer = BitLinear(8, 4, bias=False)
    with torch.no_grad():
        layer.weight[0, 0] = float("nan")
    assert layer(torch.randn(2, 8)).isnan().all()
    x = torch.randn(2, 8)
    x[1, 3] = float("nan")
    y = BitLinear(8, 4, bias=False)(x)
    assert y[1].isnan().all()
    assert y[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_step_with_the_kernel_is_the_step_without_it(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward to the bit, in any dtype and for an input that is not contiguous; gradients within rounding."""
    x = torch.randn(64, 3, 5, generator=torch.Generator().manual_seed(2)).transpose(0, 2).to(dtype).requires_grad_()
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    found = []
    for on in (True, False):
        if not on:
            monkeypatch.setattr(kernel, "load_library", lambda: None)
        y = TernaryMatmul.apply(x, weight, *_ternarize_fastest(weight.detach()), dtype)
        found.append((y.detach(), *torch.autograd.grad(y.float().square().sum(), (x, weight))))
    assert torch.equal(found[0][0], found[1][0])
    for with_kernel, without in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(with_kernel, without)


def test_float32_gradients_are_those_of_their_definition() -> None:
    """dx = dy (gamma codes), dw = dy^T (step q), in double precision; nothing that is not needed."""
    generator = torch.Generator().manual_seed(4)
    x, weight = torch.randn(9, 33, generator=generator), torch.randn(12, 33, generator=generator)
    grad = torch.randn(9, 12, generator=generator)
    (q, step), (codes, gamma) = quantize_activations(x), ternarize(weight)
    expected_x = grad.double() @ (gamma.double() * codes)
    expected_w = grad.double().t() @ (step.double() * q)
    for gradients in (_gradients, _float32_gradients):
        grad_x, grad_w = gradients(grad, q, step, codes, gamma, (True, True))
        torch.testing.assert_close(grad_x, expected_x.float())
        torch.testing.assert_close(grad_w, expected_w.float())
        assert gradients(grad, q, step, codes, gamma, (False, False)) == (None, None)
