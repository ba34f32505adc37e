"""Correlation of graded answers with the gold grades, and F1 at the threshold of KLUE-STS."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitnet_bench.errors import BenchError
from bitnet_bench.metrics.base import Metric
from bitnet_bench.metrics.classification import ConfusionMetric, label_f1
from bitnet_bench.metrics.sums import BOOTSTRAP_SIGNATURE
from bitnet_bench.runs.records import Example
from bitnet_bench.statistics import bootstrap_counts

SIMILAR_GRADE = 3.0


def collect_grades(examples: Sequence[Example]) -> np.ndarray:
    """Return [n, 2], the gold number and the model's number of each example."""
    pairs = [(example.target_value, example.output_value) for example in examples]
    if any(target is None or output is None for target, output in pairs):
        raise BenchError(f"The rows of {examples[0].task} have no grade to correlate.", "Take another metric.")
    return np.array(pairs, dtype=float)


class Pearson(Metric, adds=("points",)):
    """Pearson's r x 100, -100..100; 0 if either side is constant, for which r is not defined."""

    name = "pearson"
    limits = (-100.0, 100.0)

    def score_example(self, example: Example) -> float:
        """Return 1 / (1 + |error|), because one pair has no correlation: at least 0.5 within one grade."""
        target, output = collect_grades([example])[0]
        return float(1.0 / (1.0 + abs(target - output)))

    def value(self, examples: Sequence[Example]) -> float:
        """Return 100 r."""
        weights = np.ones((1, len(examples)))
        return 100.0 * float(_weighted_pearson(self.points(collect_grades(examples), weights), weights)[0])

    def stderr(self, examples: Sequence[Example]) -> float | None:
        """Return the bootstrap standard error over examples; None for fewer than two."""
        if len(examples) < 2:
            return None
        values = collect_grades(examples)
        drawn = [
            _weighted_pearson(self.points(values, weights), weights) for weights in bootstrap_counts(len(examples))
        ]
        return 100.0 * float(np.std(np.concatenate(drawn), ddof=1))

    def example_statistics(self, examples: Sequence[Example]) -> np.ndarray:
        """Return [n, 2], gold and given grades."""
        return collect_grades(examples)

    def score_resamples(self, numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return 100 r of each sample."""
        return 100.0 * _weighted_pearson(self.points(numbers, weights), weights)

    def points(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return [..., n, 2], the points to correlate, from values [n, 2] drawn *weights* [R, n] times."""
        return values

    def signature(self) -> str:
        """Return the signature."""
        return f"{self.name}|grade:expected-value|constant:0|{BOOTSTRAP_SIGNATURE}|v1"


class Spearman(Pearson):
    """Spearman's rho x 100: Pearson's r of the ranks, where equal values share their mean rank."""

    name = "spearman"

    def points(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the ranks within each resample, [R, n, 2]."""
        return np.stack([_weighted_ranks(values[:, side], weights) for side in (0, 1)], axis=-1)


class F1AtThree(ConfusionMetric):
    """F1 of "similar", where a grade from 3 on means similar on either side (KLUE-STS)."""

    name = "f1_at_3"
    choice = "expected-value>=3"

    def target_and_output(self, example: Example) -> tuple[int, int]:
        """Return whether the target and the output are similar."""
        target, output = collect_grades([example])[0]
        return int(target >= SIMILAR_GRADE), int(output >= SIMILAR_GRADE)

    def count_labels(self, examples: Sequence[Example]) -> int:
        """Return 2."""
        return 2

    def score_confusion(self, confusion: np.ndarray) -> np.ndarray:
        """Return F1 of "similar", 0..1."""
        return label_f1(confusion)[..., 1]


def _weighted_pearson(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return r [R] of points [n, 2] or [R, n, 2], each drawn *weights* [R, n] times."""
    share = weights / weights.sum(-1, keepdims=True)
    points = points - points.mean(-2, keepdims=True)  # keeps the moments small, which avoids cancellation
    x, y = points[..., 0], points[..., 1]
    mean_x, mean_y, xx, yy, xy = ((share * moment).sum(-1) for moment in (x, y, x * x, y * y, x * y))
    spread = (xx - mean_x**2) * (yy - mean_y**2)
    # below this, a side is constant up to rounding
    known = spread > 1e-24 * np.maximum(xx * yy, np.finfo(float).tiny)
    r = np.divide(xy - mean_x * mean_y, np.sqrt(np.maximum(spread, 0)), out=np.zeros_like(spread), where=known)
    clipped: np.ndarray = np.clip(r, -1.0, 1.0)
    return clipped


def _weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return [R, n], the mean rank of each value in a sample that holds it and its equals *weights* times."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # last index of each run of equal values
    upto = np.cumsum(weights[:, order], axis=-1)[:, last]
    before = np.concatenate([np.zeros_like(upto[:, :1]), upto[:, :-1]], axis=-1)
    run = np.searchsorted(ordered[last], values)
    ranks: np.ndarray = ((before + upto + 1) / 2)[:, run]
    return ranks
