"""How many more examples a comparison needs, against the tests that it plans for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bitnet_bench.statistics.planning import count_examples_to_decide


def test_the_number_is_that_of_the_textbook() -> None:
    """A difference of 5 at a deviation of 40 takes ((1.96 + 0.84) 40 / 5)^2 = 503 pairs; 100 are there."""
    assert count_examples_to_decide(5.0, 40 / math.sqrt(100), 100, margin=1.0) == 503 - 100


def test_equality_is_decided_where_that_takes_fewer() -> None:
    """A difference of 0 at a deviation of 10 is equal within 1 with ((1.645 + 0.842) 10)^2 = 619 pairs."""
    assert count_examples_to_decide(0.0, 10 / math.sqrt(100), 100, margin=1.0) == 619 - 100


@pytest.mark.parametrize(("difference", "stderr", "margin"), [(0.0, 1.0, 0.0), (3.0, 0.0, 1.0)])
def test_what_no_number_decides_has_none(difference: float, stderr: float, margin: float) -> None:
    """No difference and no margin, or no spread at all."""
    assert count_examples_to_decide(difference, stderr, 100, margin) is None


def test_so_many_examples_decide_in_four_of_five_trials() -> None:
    """In 4,000 simulated comparisons with that many examples, 78 to 82 % find the difference."""
    rng = np.random.default_rng(7)
    n = 50 + int(count_examples_to_decide(2.0, 10 / math.sqrt(50), 50, margin=0.5) or 0)
    means = rng.normal(2.0, 10 / math.sqrt(n), 4000)
    assert 0.78 < np.mean(np.abs(means) > 1.96 * 10 / math.sqrt(n)) < 0.82
