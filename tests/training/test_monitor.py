"""The code-flip monitor against flips made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bitnet_bench.ternary.linear import make_trainable_ternary
from bitnet_bench.training.monitor import MIN_POINTS_TO_WARN, TernaryMonitor, count_codes, warn_about_codes
from bitnet_bench.training.schedule import StepCodes


def model_with(*rows: list[float]) -> Any:
    """Return a model with one ternary layer that has these weights."""
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
    return make_trainable_ternary(nn.Sequential(layer))


def test_one_flip_is_counted() -> None:
    """Of eight codes +1 0 -1 0 / +1 +1 -1 -1, the first goes to 0: one flip, and three zeros."""
    model = model_with([2.0, 0.0, -2.0, 0.0], [2.0, 2.0, -2.0, -2.0])
    monitor = TernaryMonitor(model)
    with torch.no_grad():
        model[0].weight[0, 0] = 0.1
    seen = monitor.compare_codes()
    assert (seen["flips"], seen["zeros"]) == (1 / 8, 3 / 8)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_counts_of_any_weights_are_those_of_numpy(rows: int, columns: int, seed: int) -> None:
    """On the kernel's path and without it; masters at the boundaries themselves are not near, NaN neither."""
    drawn = np.random.default_rng(seed)
    weight = drawn.normal(size=(rows, columns)).astype(np.float32)
    gamma = np.float32(np.abs(weight).mean())
    edges = [gamma * np.float32(0.45), gamma * np.float32(0.55), -gamma * np.float32(0.5), np.nan, np.inf, 0]
    weight.flat[:: max(1, weight.size // 6)] = drawn.choice(edges, len(weight.flat[:: max(1, weight.size // 6)]))
    codes, last = drawn.integers(-1, 2, (2, rows, columns)).astype(np.int8)
    low, high = gamma * np.float32(0.45), gamma * np.float32(0.55)
    expected = [(codes != last).sum(), (codes == 0).sum(), ((np.abs(weight) > low) & (np.abs(weight) < high)).sum()]
    given_to = [torch.from_numpy(one) for one in (weight, codes, last)]
    assert count_codes(given_to[0], torch.tensor(gamma), *given_to[1:]).tolist() == expected
    transposed = [one.t().contiguous().t() for one in given_to]  # which the kernel does not take
    assert count_codes(transposed[0], torch.tensor(gamma), *transposed[1:]).tolist() == expected


def test_a_look_counts_from_the_look_before() -> None:
    """Flips are those since the last look: a flip is counted once, and again when it is undone."""
    model = model_with([2.0, 2.0, 2.0, 2.0])
    monitor = TernaryMonitor(model)
    weight = model[0].weight
    seen = []
    for value in (2.0, -2.0, -2.0, 2.0):
        with torch.no_grad():
            weight[0, 0] = value
        seen.append(monitor.compare_codes()["flips"])
    assert seen == [0.0, 0.25, 0.0, 0.25]


def test_a_change_that_flips_nothing_is_no_flip() -> None:
    """A learning rate too small for the scale moves masters, and no code."""
    model = model_with([2.0, -1.9, 0.01, -2.1])
    monitor = TernaryMonitor(model)
    with torch.no_grad():
        model[0].weight.mul_(1.001)
    assert monitor.compare_codes()["flips"] == 0.0


def test_layers_count_by_their_size() -> None:
    """The share is of all codes of all layers, not a mean over layers."""
    model = make_trainable_ternary(nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 8, bias=False)))
    for layer in model:
        with torch.no_grad():
            layer.weight.fill_(1.0)
    monitor = TernaryMonitor(model)
    with torch.no_grad():
        model[0].weight.mul_(-1)
    seen = monitor.compare_codes()
    assert (seen["flips"], seen["zeros"]) == (8 / 40, 0.0)


def test_a_float_model_has_no_flips() -> None:
    """The FP16 twin has no codes, and so no figures, rather than zeros."""
    assert TernaryMonitor(nn.Linear(3, 4)).compare_codes() == {}


def test_looking_changes_nothing() -> None:
    """A look leaves the masters and their gradients as they are."""
    model = model_with([2.0, 0.5, -1.0, 0.0])
    weight = model[0].weight
    before = weight.detach().clone()
    TernaryMonitor(model).compare_codes()
    assert torch.equal(weight.detach(), before)
    assert weight.requires_grad
    assert weight.grad is None


def test_codes_of_a_look_are_those_of_the_next_step_and_of_no_other() -> None:
    """They are not computed twice: the next forward multiplies what the look found, and the one after it does not."""
    model = model_with([2.0, 0.5, -1.0, 0.0])
    monitor, codes, x = TernaryMonitor(model), StepCodes(model), torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    expected = model(x)
    monitor.compare_codes()
    looked = monitor.pop_codes()
    codes.refresh(looked)
    assert model[0]._stored_codes[0] is looked["0"][0]
    assert torch.equal(model(x), expected)
    with torch.no_grad():
        model[0].weight.data.neg_()  # as fused optimizers change weights: without a new version
    codes.forget()
    codes.refresh(monitor.pop_codes())
    assert torch.equal(model(x), -expected)


def test_drift_and_closeness_to_a_boundary_are_those_of_their_definitions() -> None:
    """gamma of the first layer doubles, that of the second stays: 50 %. One of twelve masters is at 0.52 gamma."""
    model = make_trainable_ternary(nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 1, bias=False)))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[1].weight.copy_(torch.tensor([[1.0, -1.0, 0.52, 1.48]]))  # gamma 1
    monitor = TernaryMonitor(model)
    with torch.no_grad():
        model[0].weight.mul_(2)
    assert monitor.compare_codes() == pytest.approx(
        {"flips": 0, "zeros": 0, "near_boundary": 1 / 12, "scale_drift": 0.5}
    )


def points(flips: list[float], rates: list[float]) -> list[dict[str, float]]:
    """Return logged points with these flips and learning rates."""
    return [{"flips": flip, "learning_rate": rate} for flip, rate in zip(flips, rates, strict=True)]


def test_codes_that_never_flip_at_the_peak_are_warned_of() -> None:
    """After twenty looks, with the size that a learning rate must be compared with."""
    still = points([0.0] * MIN_POINTS_TO_WARN, [1e-3] * MIN_POINTS_TO_WARN)
    assert warn_about_codes(still[1:], 1e-3, 2.0) == ()
    (warning,) = warn_about_codes(still, 1e-3, 2.0)
    assert "No code differed from the look before at any of 20 looks" in warning
    assert "mean |W| = 2" in warning


def test_a_warm_up_without_flips_is_not_warned_of() -> None:
    """Looks count where the rate is half of its peak or above: not on the way there, nor at the end of a decay."""
    low = points([0.0] * 40, [4e-4] * 40)
    assert warn_about_codes(low, 1e-3, 2.0) == ()
    high = points([0.0] * MIN_POINTS_TO_WARN, [5e-4] * MIN_POINTS_TO_WARN)
    assert warn_about_codes([*low, *high[1:]], 1e-3, 2.0) == ()
    (warning,) = warn_about_codes([*low, *high], 1e-3, 2.0)
    assert "any of 60 looks, 20 of them at half of the peak" in warning


@pytest.mark.parametrize("when", [0, MIN_POINTS_TO_WARN // 2, 2 * MIN_POINTS_TO_WARN - 1])
def test_a_run_with_a_flip_does_not_say_that_no_code_flipped(when: int) -> None:
    """Before the stillness, in it, or after the moment when the log spoke of it."""
    flips = [0.0] * (2 * MIN_POINTS_TO_WARN)
    flips[when] = 1e-6
    assert warn_about_codes(points(flips, [1e-3] * len(flips)), 1e-3, 2.0) == ()


def test_a_flip_that_is_undone_between_two_looks_is_not_denied() -> None:
    """It is not seen, so the words are of looks: a code differed from the look before, or did not."""
    model = model_with([2.0, 2.0, -2.0, 2.0])
    monitor = TernaryMonitor(model)
    seen = []
    for _ in range(MIN_POINTS_TO_WARN):
        with torch.no_grad():
            model[0].weight[0, 0] *= -1
            model[0].weight[0, 0] *= -1
        seen.append({**monitor.compare_codes(), "learning_rate": 1e-3})
    (warning,) = warn_about_codes(seen, 1e-3, monitor.mean_weight)
    assert "differed from the look before" in warning
    assert "flipped" not in warning
    assert monitor.mean_weight == 2.0


def test_weights_that_flip_all_the_time_are_warned_of() -> None:
    """A quarter of the codes at every look is no learning."""
    model = model_with([2.0, 2.0, -2.0, 2.0])
    monitor = TernaryMonitor(model)
    seen = []
    for _ in range(MIN_POINTS_TO_WARN):
        assert warn_about_codes(seen, 1e-3, 2.0) == ()
        with torch.no_grad():
            model[0].weight[0, 0] *= -1
        seen.append({**monitor.compare_codes(), "learning_rate": 1e-3})
    (warning,) = warn_about_codes(seen, 1e-3, 2.0)
    assert "Lower `learning_rate`" in warning
    assert warn_about_codes([*seen, *points([0.0] * 5, [1e-3] * 5)], 1e-3, 2.0) == (warning,)


def test_a_float_run_has_nothing_to_say_of_codes() -> None:
    """Its points have no flips."""
    assert TernaryMonitor(nn.Linear(2, 2)).mean_weight == 0.0
    assert warn_about_codes([{"loss": 1.0, "learning_rate": 1e-3}] * (2 * MIN_POINTS_TO_WARN), 1e-3, 0.0) == ()


def test_shares_lie_between_0_and_1() -> None:
    """Flips and zeros are shares, whatever happened to the weights."""
    torch.manual_seed(0)
    model = make_trainable_ternary(nn.Sequential(nn.Linear(13, 7)))
    monitor = TernaryMonitor(model)
    for _ in range(3):
        with torch.no_grad():
            model[0].weight.normal_()
        shares = monitor.compare_codes()
        assert all(0.0 <= shares[name] <= 1.0 for name in ("flips", "zeros", "near_boundary"))
        assert shares["flips"] == pytest.approx(0.66, abs=0.2)
