"""The alarm for divergence, which must tell it from a float model that was just made ternary."""

from __future__ import annotations

import math

import pytest

from bitnet_bench.training.objectives import PATIENCE, has_diverged

GEMMA = 262_144
GUESSING = math.log(GEMMA)


def test_a_loss_beyond_twice_guessing_is_divergence_at_once() -> None:
    assert has_diverged([3.0, 2.1 * GUESSING], GEMMA, becomes_ternary=False)
    assert not has_diverged([3.0, 1.9 * GUESSING], GEMMA, becomes_ternary=False)


def test_a_run_that_begins_far_above_guessing_is_held_against_its_lowest_loss() -> None:
    assert not has_diverged([40.0, 60.0], GEMMA, becomes_ternary=False)
    assert has_diverged([40.0, 20.0, 60.0], GEMMA, becomes_ternary=False)


def test_a_model_that_becomes_ternary_may_rise_far_above_guessing_before_it_falls() -> None:
    """The curve of Gemma 3 270M at a rate of 1e-4, which was once stopped at its sixth step."""
    losses = [12.9, 15.0, 18.2, 14.9, 19.8, 26.2, 17.0, 8.1, 4.0]
    assert not any(has_diverged(losses[:n], GEMMA, becomes_ternary=True) for n in range(1, len(losses) + 1))
    assert has_diverged(losses[:6], GEMMA, becomes_ternary=False)


def test_a_model_that_becomes_ternary_and_stays_there_has_diverged() -> None:
    lost = [13.0, *[30.0] * PATIENCE]
    assert has_diverged(lost, GEMMA, becomes_ternary=True)
    assert not has_diverged(lost[:-1], GEMMA, becomes_ternary=True)
    assert not has_diverged([*lost[:-1], 20.0, 30.0], GEMMA, becomes_ternary=True)


@pytest.mark.parametrize("first", [13.0, 40.0])
def test_its_bound_is_of_where_it_began(first: float) -> None:
    """Quantization may leave it above twice guessing before the first step."""
    losses = [first, *[1.5 * first] * PATIENCE]
    assert not has_diverged(losses, GEMMA, becomes_ternary=True)
