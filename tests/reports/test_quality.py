"""The share of quality that is kept, by hand and against a bootstrap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bitnet_bench.comparison import compare
from bitnet_bench.reports.named_runs import name_runs
from bitnet_bench.reports.quality import compute_kept_quality


def keep(make_results: Any, a: dict[str, list[float]], b: dict[str, list[float]]) -> Any:
    """Return what a ternary run keeps of a float one, given what each example of each task got."""
    one, other = (
        make_results(name, rows, metrics=("accuracy",), precision=precision)
        for name, rows, precision in (("a", a, "ternary"), ("b", b, "fp16"))
    )
    runs = name_runs([one, other])
    return compute_kept_quality(runs[0], runs[1], compare(runs[0].results, runs[1].results))


def test_the_share_is_the_ratio_of_the_means(make_results: Any) -> None:
    """Means of (60 + 30) / 2 and (80 + 40) / 2 are 75 %."""
    a = {"s:t": [1.0] * 60 + [0.0] * 40, "s:u": [1.0] * 30 + [0.0] * 70}
    b = {"s:t": [1.0] * 80 + [0.0] * 20, "s:u": [1.0] * 40 + [0.0] * 60}
    found = keep(make_results, a, b)
    assert found.share == pytest.approx(0.75)
    assert found.interval[0] < 0.75 < found.interval[1]


def test_the_interval_is_that_of_a_bootstrap_of_pairs(make_results: Any) -> None:
    """400 pairs of which most agree, resampled 4,000 times, have the same 95 % of ratios, to a tenth of its width."""
    rng = np.random.default_rng(3)
    b = (rng.random(400) < 0.7).astype(float)
    a = np.where(rng.random(400) < 0.15, 1 - b, b)
    found = keep(make_results, {"s:t": a.tolist()}, {"s:t": b.tolist()})
    drawn = rng.integers(400, size=(4000, 400))
    low, high = np.quantile(a[drawn].mean(1) / b[drawn].mean(1), [0.025, 0.975])
    assert found.interval == pytest.approx((low, high), abs=0.1 * (high - low))


def test_nothing_is_kept_of_what_cannot_be_told_from_zero(make_results: Any) -> None:
    """One of thirty right has an interval that reaches 0, and a share of it would mean nothing."""
    few, more = [1.0] + [0.0] * 29, [1.0] * 15 + [0.0] * 15
    assert keep(make_results, {"s:t": more}, {"s:t": few}) is None
    assert keep(make_results, {"s:t": few}, {"s:t": more}) is not None
