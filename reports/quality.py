"""Compute which share of one run's quality another run keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bitnet_bench.comparison.results import Comparison, Difference
from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.statistics import NORMAL_95
from bitnet_bench.statistics.several import combine_stderrs


@dataclass(frozen=True)
class KeptQuality:
    """The mean score of a run as a share of another's (1 is all of it), with its 95 % interval if there is one."""

    share: float
    interval: tuple[float, float] | None


def compute_kept_quality(a: NamedRun, b: NamedRun, comparison: Comparison) -> KeptQuality | None:
    """Return the mean score of *a* over that of *b* on the tasks of *comparison* that have points.

    The interval is of the delta method, with the covariance that the paired differences imply:
    var(a/b) = (var a - 2 r cov + r^2 var b) / b^2, cov = (var a + var b - var(a - b)) / 2. None if the mean of *b*
    cannot be told from 0.
    """
    found = [d for d in comparison.differences if d.equivalence_p is not None and not d.lower_is_better]
    if not found:
        return None
    mean_a, mean_b = (math.fsum(values) / len(found) for values in ([d.a for d in found], [d.b for d in found]))
    errors = [_combine_errors(run, found) for run in (a, b)]
    paired = combine_stderrs([d.stderr for d in found])
    if mean_b <= NORMAL_95 * (errors[1] or 0.0):
        return None
    share = mean_a / mean_b
    if errors[0] is None or errors[1] is None or paired is None:
        return KeptQuality(share, None)
    variance_a, variance_b = errors[0] ** 2, errors[1] ** 2
    covariance = (variance_a + variance_b - paired**2) / 2
    variance = (variance_a - 2 * share * covariance + share**2 * variance_b) / mean_b**2
    half = NORMAL_95 * math.sqrt(max(0.0, variance))
    return KeptQuality(share, (max(0.0, share - half), share + half))


def _combine_errors(run: NamedRun, found: list[Difference]) -> float | None:
    """Return the standard error of the run's mean; None if a score has none."""
    return combine_stderrs([run.scores[d.task, d.metric].stderr_for_means for d in found])
