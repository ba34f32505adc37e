"""The code-flip monitor against flips made by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bitnet_bench.ternary.linear import make_trainable_ternary
from bitnet_bench.training.flips import FlipMonitor


def model_with(*rows: list[float]) -> Any:
    """Return a model with one ternary layer that has these weights."""
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
    return make_trainable_ternary(nn.Sequential(layer))


def test_one_flip_is_counted() -> None:
    """Of eight codes +1 0 -1 0 / +1 +1 -1 -1, the first goes to 0: one flip, and three zeros."""
    model = model_with([2.0, 0.0, -2.0, 0.0], [2.0, 2.0, -2.0, -2.0])
    monitor = FlipMonitor(model)
    with torch.no_grad():
        model[0].weight[0, 0] = 0.1
    assert monitor.look() == {"flips": 1 / 8, "zeros": 3 / 8}


def test_a_look_counts_from_the_look_before() -> None:
    """Flips are those since the last look: a flip is counted once, and again when it is undone."""
    model = model_with([2.0, 2.0, 2.0, 2.0])
    monitor = FlipMonitor(model)
    weight = model[0].weight
    seen = []
    for value in (2.0, -2.0, -2.0, 2.0):
        with torch.no_grad():
            weight[0, 0] = value
        seen.append(monitor.look()["flips"])
    assert seen == [0.0, 0.25, 0.0, 0.25]


def test_a_change_that_flips_nothing_is_no_flip() -> None:
    """A learning rate too small for the scale moves masters, and no code."""
    model = model_with([2.0, -1.9, 0.01, -2.1])
    monitor = FlipMonitor(model)
    with torch.no_grad():
        model[0].weight.mul_(1.001)
    assert monitor.look()["flips"] == 0.0


def test_layers_count_by_their_size() -> None:
    """The share is of all codes of all layers, not a mean over layers."""
    model = make_trainable_ternary(nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 8, bias=False)))
    for layer in model:
        with torch.no_grad():
            layer.weight.fill_(1.0)
    monitor = FlipMonitor(model)
    with torch.no_grad():
        model[0].weight.mul_(-1)
    assert monitor.look() == {"flips": 8 / 40, "zeros": 0.0}


def test_a_float_model_has_no_flips() -> None:
    """The FP16 twin has no codes, and so no figures, rather than zeros."""
    assert FlipMonitor(nn.Linear(3, 4)).look() == {}


def test_looking_changes_nothing() -> None:
    """A look leaves the masters and their gradients as they are."""
    model = model_with([2.0, 0.5, -1.0, 0.0])
    weight = model[0].weight
    before = weight.detach().clone()
    FlipMonitor(model).look()
    assert torch.equal(weight.detach(), before)
    assert weight.requires_grad
    assert weight.grad is None


def test_shares_lie_between_0_and_1() -> None:
    """Flips and zeros are shares, whatever happened to the weights."""
    torch.manual_seed(0)
    model = make_trainable_ternary(nn.Sequential(nn.Linear(13, 7)))
    monitor = FlipMonitor(model)
    for _ in range(3):
        with torch.no_grad():
            model[0].weight.normal_()
        shares = monitor.look()
        assert all(0.0 <= share <= 1.0 for share in shares.values())
        assert shares["flips"] == pytest.approx(0.66, abs=0.2)
