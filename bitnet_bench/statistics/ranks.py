"""Rank estimates with the ranks that their standard errors leave open, so that a tie is shown as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from bitnet_bench.statistics.several import holm

RANK_LEVEL = 0.05
"""Probability that any two of the ranked estimates are put in order though they do not differ."""
RankInterval = tuple[int, int]


def rank_intervals(
    values: Sequence[float], stderrs: Sequence[float], lower_is_better: bool = False
) -> list[RankInterval]:
    """Return for each estimate its best and its worst possible rank, from 1.

    Every pair is tested by z = (a - b) / sqrt(ea^2 + eb^2), with p adjusted over all pairs (Holm). An estimate ranks
    behind those that are significantly better, and before those that are significantly worse: the intervals hold all
    true ranks together with a probability of 95 %. Estimates of the same rows are positively correlated, which makes
    the intervals wider than they need to be.
    """
    count = len(values)
    pairs = list(combinations(range(count), 2))
    ps = holm([_compute_pair_p(values[i] - values[j], math.hypot(stderrs[i], stderrs[j])) for i, j in pairs])
    better, worse = [0] * count, [0] * count
    for (i, j), p in zip(pairs, ps, strict=True):
        if p < RANK_LEVEL:
            first, second = (i, j) if (values[i] > values[j]) != lower_is_better else (j, i)
            better[second] += 1
            worse[first] += 1
    return [(1 + better[i], count - worse[i]) for i in range(count)]


def _compute_pair_p(difference: float, stderr: float) -> float:
    """Return the two-sided p of a normal difference."""
    if not stderr:
        return 0.0 if difference else 1.0
    return math.erfc(abs(difference) / stderr / math.sqrt(2))
