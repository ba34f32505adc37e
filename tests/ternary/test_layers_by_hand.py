"""What a ternary layer computes, on numbers so small that they can be worked out by hand.

A mistake that an oracle shares with the code, such as an epsilon that both forget, is wrong here.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bitnet_bench.ternary import kernel
from bitnet_bench.ternary.linear import BitLinear, CodesLinear, InnerNorm
from bitnet_bench.ternary.ops import PanelsLinear
from bitnet_bench.ternary.panels import to_panels
from bitnet_bench.ternary.quantizer import absmean, masters_from_codes, quantize_activations, ternarize
from bitnet_bench.training.lora import LowRank, add_adapters, merge_adapters

SMALL = torch.tensor([[3e-3, 4e-3]])
"""The mean of its squares is 12.5e-6; with as much epsilon its norm is 5e-3."""
EPSILON = 12.5e-6


@pytest.mark.parametrize(
    ("epsilon", "weight", "normed"),
    [
        (EPSILON, None, (0.6, 0.8)),
        (EPSILON, (2.0, 10.0), (1.2, 8.0)),
        (0.0, None, (0.848528, 1.131371)),  # over sqrt(12.5e-6)
        (1e-6, None, (0.816497, 1.088662)),  # over sqrt(13.5e-6)
        (87.5e-6, None, (0.3, 0.4)),  # over sqrt(100e-6)
    ],
)
def test_the_inner_norm_adds_its_epsilon_to_the_mean_of_squares(
    epsilon: float, weight: tuple[float, float] | None, normed: tuple[float, float]
) -> None:
    """Before the root, and for small rows it decides the result."""
    norm = InnerNorm(None if weight is None else torch.tensor(weight), epsilon)
    assert norm(SMALL)[0].tolist() == pytest.approx(normed, rel=1e-5)


def test_a_row_of_zeros_stays_zero_in_the_inner_norm() -> None:
    """Without an epsilon it would be divided by zero."""
    assert InnerNorm(None, 1e-6)(torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2


CODES = torch.tensor([[1, 0], [0, 1], [1, -1]], dtype=torch.int8)
GAMMA = 0.5


def make_codes_layer(epsilon: float, weight: Tensor | None) -> nn.Module:
    """Return the layer with int8 codes."""
    return CodesLinear(CODES, torch.tensor(GAMMA), None, InnerNorm(weight, epsilon))


def make_panels_layer(epsilon: float, weight: Tensor | None) -> nn.Module:
    """Return the layer with 2-bit codes."""
    return PanelsLinear(to_panels(CODES), GAMMA, (3, 2), None, (weight, epsilon))


Make = Callable[[float, Tensor | None], nn.Module]


@pytest.mark.parametrize("make", [make_codes_layer, make_panels_layer])
@pytest.mark.parametrize(
    ("epsilon", "weight", "y"),
    [
        # 0.6 and 0.8 are 95 and 127 steps of 0.8 / 127
        (EPSILON, None, (95 * 0.8 / 127 * 0.5, 0.4, (95 - 127) * 0.8 / 127 * 0.5)),
        # 1.2 and 8 are 19 and 127 steps of 8 / 127
        (EPSILON, (2.0, 10.0), (19 * 8 / 127 * 0.5, 4.0, (19 - 127) * 8 / 127 * 0.5)),
        # 0.3 and 0.4 are the same steps, half as long
        (87.5e-6, None, (95 * 0.4 / 127 * 0.5, 0.2, (95 - 127) * 0.4 / 127 * 0.5)),
    ],
)
def test_a_layer_norms_quantizes_multiplies_and_scales(
    make: Make, epsilon: float, weight: tuple[float, float] | None, y: tuple[float, ...]
) -> None:
    """Codes 1 0, 0 1 and 1 -1 with the scale a half, on either kind of layer."""
    layer = make(epsilon, None if weight is None else torch.tensor(weight))
    assert layer(SMALL)[0].tolist() == pytest.approx(y, rel=1e-5)


@pytest.mark.skipif(kernel.load_library() is None, reason="the CPU kernel is not built here")
@pytest.mark.parametrize(("epsilon", "normed"), [(EPSILON, (0.6, 0.8)), (87.5e-6, (0.3, 0.4))])
def test_the_kernel_adds_the_epsilon_too(epsilon: float, normed: tuple[float, float]) -> None:
    """The engine norms its rows in the same call that quantizes them."""
    y = torch.empty(1, 2)
    kernel.quantize_rows(SMALL, 1, None, norm=kernel.Norm(None, epsilon), y=y)
    assert y[0].tolist() == pytest.approx(normed, rel=1e-5)


@pytest.mark.parametrize(
    ("weights", "gamma", "codes"),
    [
        ([1.0, -1.0, 1.0, -1.0], 1.0, [1, -1, 1, -1]),
        ([4.0, 0.0, 0.0, 0.0], 1.0, [1, 0, 0, 0]),  # 4 is clipped to 1
        ([-9.0, 1.0, 1.0, 1.0], 3.0, [-1, 0, 0, 0]),  # a third rounds to 0
        ([2.0, -1.0, 1.0, 0.0], 1.0, [1, -1, 1, 0]),
        ([1.0, 3.0, 2.0, 2.0], 2.0, [0, 1, 1, 1]),  # a half rounds to 0 and one and a half to 2
        ([0.0, 0.0, 0.0, 0.0], 1e-5, [0, 0, 0, 0]),
        ([1e-6, -1e-6, 0.0, 0.0], 1e-5, [0, 0, 0, 0]),  # the mean is below the smallest scale
        ([8e-6, -8e-6, 8e-6, 8e-6], 1e-5, [1, -1, 1, 1]),
    ],
)
def test_weights_become_codes_of_their_mean(weights: list[float], gamma: float, codes: list[int]) -> None:
    """Absmean, at least 1e-5; to the nearest, halves to even; between -1 and 1."""
    made, scale = ternarize(torch.tensor([weights]))
    assert float(scale) == float(absmean(torch.tensor([weights]))) == pytest.approx(gamma, rel=1e-6)
    assert made[0].tolist() == codes


@pytest.mark.parametrize(
    ("x", "q", "step"),
    [
        ([127.0, 1.0, -64.0], [127, 1, -64], 1.0),
        ([-127.0, 1.0, 64.0], [-127, 1, 64], 1.0),  # no value is -128
        ([254.0, 1.0, 3.0, 5.0, -1.0, -3.0], [127, 0, 2, 2, 0, -2], 2.0),  # halves to even
        ([0.0, 0.0, 0.0], [0, 0, 0], 1e-5 / 127),
        ([1e-6, -5e-6, 0.0], [13, -64, 0], 1e-5 / 127),  # 12.7 and 63.5 steps of the smallest scale
        ([1e30, 1e30, -1e30], [127, 127, -127], 1e30 / 127),
    ],
)
def test_activations_become_steps_of_their_largest(x: list[float], q: list[int], step: float) -> None:
    """127 steps to the largest of a row, at least 1e-5; to the nearest, halves to even."""
    made, size = quantize_activations(torch.tensor([x]))
    assert made[0].tolist() == q
    assert float(size) == pytest.approx(step, rel=1e-6)


@pytest.mark.skipif(kernel.load_library() is None, reason="the CPU kernel is not built here")
def test_the_kernel_rounds_halves_to_even_too() -> None:
    """Activations and weights."""
    q, step = kernel.quantize(torch.tensor([[254.0, 1.0, 3.0, 5.0, -1.0, -3.0, 0.0, 0.0]]))
    assert q[0].tolist() == [127, 0, 2, 2, 0, -2, 0, 0]
    assert float(step) == 2.0
    codes = kernel.ternarize(torch.tensor([[1.0, 3.0, 2.0, 2.0, -1.0, -3.0, -9.0, 0.0]]), torch.tensor(2.0))
    assert codes[0].tolist() == [0, 1, 1, 1, 0, -1, -1, 0]


def test_masters_are_codes_over_their_density() -> None:
    """Three of eight codes are not 0: masters of 0.5 x 8 / 3, whose absmean is 0.5 again."""
    codes = torch.tensor([[1, 0, -1, 0], [0, 0, 1, 0]], dtype=torch.int8)
    masters = masters_from_codes(codes, torch.tensor(0.5))
    assert masters.tolist() == [
        pytest.approx([4 / 3, 0.0, -4 / 3, 0.0]),
        pytest.approx([0.0, 0.0, 4 / 3, 0.0]),
    ]
    assert float(absmean(masters)) == pytest.approx(0.5)


A, B = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
"""Adapters of rank 2, whose product B A is 1 0 2, 0 2 0."""


def set_adapter(adapter: LowRank, rank: int) -> None:
    """Give an adapter these values, and zeros in whatever rank it has more."""
    with torch.no_grad():
        adapter.a.zero_()
        adapter.b.zero_()
        adapter.a[:2], adapter.b[:, :2] = A, B
    assert adapter.a.shape == (rank, 3)


@pytest.mark.parametrize(
    ("rank", "alpha", "scale"),
    [(2, 2.0, 1.0), (2, 8.0, 4.0), (4, 8.0, 2.0), (8, 16.0, 2.0), (16, 8.0, 0.5), (2, 1.0, 0.5)],
)
def test_an_adapter_counts_alpha_over_its_rank(rank: int, alpha: float, scale: float) -> None:
    """W + (alpha / r) B A: a higher rank alone does not make the change larger."""
    weight = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    adapter = LowRank(weight, rank, alpha, torch.Generator().manual_seed(0))
    assert torch.equal(adapter(weight), weight), "B begins at zero"
    set_adapter(adapter, rank)
    assert adapter(weight).tolist() == [[1 + scale, 1.0, 1 + 2 * scale], [0.0, 2 * scale, 0.0]]


def test_a_merged_adapter_leaves_the_weights_that_it_made() -> None:
    """With alpha 8 and rank 2: what is saved is what was trained."""
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    weight = torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.0, -1.0]])
    model[0].weight.data.copy_(weight)
    model[0].__class__ = BitLinear
    add_adapters(model, 2, 8.0, 0)
    set_adapter(model[0].parametrizations.weight[0], 2)  # type: ignore[union-attr,index,arg-type]
    merge_adapters(model)
    assert model[0].weight.tolist() == [[5.0, -2.0, 11.0], [0.5, 8.0, -1.0]]
