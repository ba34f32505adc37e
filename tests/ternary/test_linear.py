"""The ternary layers against float64 products and plain autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitnet_bench.ternary import linear
from bitnet_bench.ternary.linear import (
    LARGEST_EXACT_K,
    BitLinear,
    CodesLinear,
    find_bit_linears,
    find_ternary_targets,
    integer_matmul,
    make_trainable_ternary,
)
from bitnet_bench.ternary.quantizer import ternarize

SHAPES = [(1, 1, 1), (1, 7, 4), (2, 3, 5), (13, 17, 31), (5, 64, 96), (33, 129, 65)]


@pytest.fixture(params=["as this CPU does", "without VNNI"])
def either_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test on the product of this machine, and on the float32 one.

    Only the CPU decides between them, and no argument reaches the other: hence the one patch of these tests.
    """
    if request.param == "without VNNI":
        monkeypatch.setattr(linear, "_has_vnni", lambda: False)


def naive_activation(x: Tensor) -> Tensor:
    """Quantize and dequantize activations, per token, as eq. 4-5 is written."""
    scale = 127.0 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
    return (x * scale).round().clamp(-128, 127) / scale


def naive_weight(w: Tensor) -> Tensor:
    """Quantize and dequantize weights, as eq. 1-3 is written."""
    gamma = w.abs().mean().clamp(min=1e-5)
    return (w / gamma).round().clamp(-1, 1) * gamma


def close(got: Tensor, expected: Tensor, relative: float = 1e-5) -> bool:
    """Whether the largest error is below *relative* of the largest value."""
    return bool((got.double() - expected.double()).abs().max() <= relative * expected.double().abs().max())


def layer(inputs: int, outputs: int, bias: bool = True, seed: int = 0) -> BitLinear:
    torch.manual_seed(seed)
    return BitLinear(inputs, outputs, bias=bias)


@pytest.mark.usefixtures("either_path")
@pytest.mark.parametrize("shape", SHAPES)
def test_integer_products_are_exact(shape: tuple[int, int, int]) -> None:
    """integer_matmul equals the int64 product of numpy over awkward shapes, on both paths."""
    m, k, n = shape
    rng = np.random.default_rng(k)
    q, codes = rng.integers(-128, 128, (m, k), dtype=np.int8), rng.integers(-1, 2, (n, k), dtype=np.int8)
    got = integer_matmul(torch.from_numpy(q), torch.from_numpy(codes))
    assert got.dtype == torch.float32
    assert np.array_equal(got.numpy().astype(np.int64), q.astype(np.int64) @ codes.astype(np.int64).T)


@pytest.mark.usefixtures("either_path")
def test_integer_products_of_transposed_inputs_are_exact() -> None:
    """Strides do not matter to integer_matmul."""
    rng = np.random.default_rng(5)
    q, codes = rng.integers(-128, 128, (17, 11), dtype=np.int8), rng.integers(-1, 2, (17, 9), dtype=np.int8)
    got = integer_matmul(torch.from_numpy(q).t(), torch.from_numpy(codes).t())
    assert np.array_equal(got.numpy().astype(np.int64), q.T.astype(np.int64) @ codes.astype(np.int64))


@pytest.mark.usefixtures("either_path")
def test_no_rows_give_no_rows() -> None:
    """An empty batch is no special case."""
    got = integer_matmul(torch.zeros(0, 5, dtype=torch.int8), torch.zeros(3, 5, dtype=torch.int8))
    assert got.shape == (0, 3)


@pytest.mark.usefixtures("either_path")
def test_the_largest_sum_is_exact() -> None:
    """At the largest K every product may be -128 * -1, and the sum is still exact."""
    q = torch.full((1, LARGEST_EXACT_K), -128, dtype=torch.int8)
    codes = torch.full((2, LARGEST_EXACT_K), -1, dtype=torch.int8)
    codes[1, 0] = 0
    assert integer_matmul(q, codes).tolist() == [[2.0**24, 2.0**24 - 128]]


def test_a_longer_sum_is_refused() -> None:
    """Above the largest K float32 could round, so the product is refused."""
    long = torch.zeros(1, LARGEST_EXACT_K + 1, dtype=torch.int8)
    with pytest.raises(ValueError, match="would not be exact"):
        integer_matmul(long, long)


@pytest.mark.usefixtures("either_path")
def test_integer_products_are_exact_under_autocast() -> None:
    """A bfloat16 autocast around the layer does not touch the integer sums, on either path."""
    rng = np.random.default_rng(9)
    q, codes = rng.integers(-128, 128, (7, 333), dtype=np.int8), rng.integers(-1, 2, (9, 333), dtype=np.int8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = integer_matmul(torch.from_numpy(q), torch.from_numpy(codes))
    assert got.dtype == torch.float32
    assert np.array_equal(got.numpy().astype(np.int64), q.astype(np.int64) @ codes.astype(np.int64).T)


@pytest.mark.usefixtures("either_path")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_forward_is_the_product_of_quantized_factors(shape: tuple[int, int, int], bias: bool) -> None:
    """BitLinear equals Q(x) @ T(w).T + b in float64 within 1e-5, over awkward shapes."""
    m, k, n = shape
    bit = layer(k, n, bias)
    x = torch.randn(m, k)
    expected = naive_activation(x).double() @ naive_weight(bit.weight.detach()).double().t()
    if bias:
        expected += bit.bias.detach().double()
    assert close(bit(x).detach(), expected)


def test_effective_weights_take_exactly_three_values() -> None:
    """One-hot rows read the weights that the forward uses: -gamma, 0 and +gamma, to the bit."""
    bit = layer(37, 41, bias=False)
    values = bit(torch.eye(37)).detach().unique()
    assert values.numel() == 3
    assert values[1] == 0
    assert values[0] == -values[2]


@pytest.mark.usefixtures("either_path")
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_straight_through(shape: tuple[int, int, int]) -> None:
    """Gradients equal those of x + (q(x) - x).detach() under plain float32 autograd, within 1e-5."""
    m, k, n = shape
    bit = layer(k, n)
    x = torch.randn(m, k, requires_grad=True)
    towards = torch.randn(m, n)
    got = torch.autograd.grad((bit(x) * towards).sum(), [x, bit.weight, bit.bias])

    through_x = x + (naive_activation(x) - x).detach()
    through_w = bit.weight + (naive_weight(bit.weight) - bit.weight).detach()
    y = nn.functional.linear(through_x, through_w, bit.bias)
    expected = torch.autograd.grad((y * towards).sum(), [x, bit.weight, bit.bias])
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == torch.float32
        assert ours.shape == theirs.shape
        assert close(ours, theirs)


def test_gradients_flow_through_leading_dimensions_and_expanded_gradients() -> None:
    """x [B, T, K] and the stride-0 gradient of a sum give the gradients of the flattened rows."""
    bit = layer(17, 8)
    x = torch.randn(2, 3, 17, requires_grad=True)
    flat = x.detach().reshape(6, 17).requires_grad_()
    got = torch.autograd.grad(bit(x).sum(), [x, bit.weight])
    expected = torch.autograd.grad(bit(flat).sum(), [flat, bit.weight])
    assert torch.equal(got[0].reshape(6, 17), expected[0])
    assert torch.equal(got[1], expected[1])


def test_frozen_parts_get_no_gradient() -> None:
    """Masters that are frozen, and inputs that need none, have none."""
    bit = layer(9, 4, bias=False)
    bit.weight.requires_grad_(False)
    x = torch.randn(2, 9, requires_grad=True)
    bit(x).sum().backward()
    assert x.grad is not None
    assert bit.weight.grad is None
    bit = layer(9, 4, bias=False)
    x = torch.randn(2, 9)
    bit(x).sum().backward()
    assert x.grad is None
    assert bit.weight.grad is not None


@pytest.mark.usefixtures("either_path")
def test_autocast_changes_the_output_dtype_and_nothing_else() -> None:
    """Under bfloat16 autocast the output is the float32 output rounded once; gradients have their parameters' dtype."""
    bit = layer(129, 33)
    x = torch.randn(7, 129, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = bit(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    for tensor in (x, bit.weight, bit.bias):
        assert tensor.grad is not None
        assert tensor.grad.dtype == torch.float32
    # 2 roundings of bfloat16 (product, bias) are each at most 2**-8 of the value
    assert close(y.detach(), layer(129, 33)(x).detach(), relative=2 * 2**-8)


@pytest.mark.usefixtures("either_path")
def test_autocast_rounds_the_float32_product_once() -> None:
    """Without a bias the autocast output is, to the bit, the float32 output rounded to bfloat16."""
    bit = layer(333, 33, bias=False)
    x = torch.randn(7, 333)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        got = bit(x)
    with torch.no_grad():
        assert torch.equal(got, bit(x).bfloat16())


def test_gradients_under_autocast_are_near_the_float32_ones() -> None:
    """bfloat16 gradients differ from float32 ones by their rounding, not by more than 2 %."""
    bit, x, towards = layer(129, 33), torch.randn(7, 129, requires_grad=True), torch.randn(7, 33)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = bit(x)
    got = torch.autograd.grad((y.float() * towards).sum(), [x, bit.weight])
    expected = torch.autograd.grad((bit(x) * towards).sum(), [x, bit.weight])
    for ours, theirs in zip(got, expected, strict=True):
        assert close(ours, theirs, relative=0.02)


@pytest.mark.usefixtures("either_path")
@pytest.mark.parametrize("bias", [True, False])
def test_codes_give_what_masters_give(bias: bool) -> None:
    """CodesLinear equals the BitLinear it was made of, bit for bit."""
    bit = layer(61, 24, bias)
    codes, gamma = ternarize(bit.weight.detach())
    deployed = CodesLinear(codes, gamma, bit.bias.detach() if bias else None)
    x = torch.randn(2, 5, 61)
    assert torch.equal(deployed(x), bit(x))


@pytest.mark.usefixtures("either_path")
def test_a_row_does_not_depend_on_its_batch() -> None:
    """Every row alone gives, bit for bit, what it gives among others."""
    bit = layer(129, 65)
    codes, gamma = ternarize(bit.weight.detach())
    deployed = CodesLinear(codes, gamma, bit.bias.detach())
    x = torch.randn(3, 11, 129)
    with torch.no_grad():
        for module in (bit, deployed):
            together = module(x)
            alone = torch.stack([torch.stack([module(row[None])[0] for row in rows]) for rows in x])
            assert torch.equal(together, alone)


def test_a_damaged_weight_is_not_hidden() -> None:
    """A NaN among the masters makes every output NaN: integer codes do not swallow it."""
    bit = layer(5, 4, bias=False)
    with torch.no_grad():
        bit.weight[0, 0] = float("nan")
        assert bool(bit(torch.ones(1, 5)).isnan().all())


def test_a_damaged_activation_is_not_hidden() -> None:
    """A NaN among the activations makes its own row NaN, and no other."""
    bit = layer(5, 4, bias=False)
    x = torch.ones(2, 5)
    x[1, 2] = float("nan")
    with torch.no_grad():
        y = bit(x)
    assert bool(y[0].isfinite().all())
    assert bool(y[1].isnan().all())


def test_all_linear_layers_but_the_head_become_ternary() -> None:
    """The ternary targets of a causal LM are its linear layers without the output head, parameters kept."""
    from transformers import BitNetConfig, BitNetForCausalLM

    model = BitNetForCausalLM(
        BitNetConfig(
            vocab_size=20,
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )
    )
    expected = {f"model.layers.0.self_attn.{name}_proj" for name in "qkvo"}
    expected |= {f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")}
    before = dict(model.named_parameters())
    assert find_ternary_targets(model).keys() == expected
    assert not find_bit_linears(model)
    make_trainable_ternary(model)
    assert find_bit_linears(model).keys() == expected
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
