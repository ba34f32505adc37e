"""The base of metrics that are a mean over examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitnet_bench.metrics.base import Metric
from bitnet_bench.runs.records import Example
from bitnet_bench.statistics import mean_stderr


class MeanMetric(Metric):
    """A metric whose value is the mean of `score_example`."""

    def value(self, examples: Sequence[Example]) -> float:
        """Return the mean over examples, 0..100."""
        return 100.0 * sum(map(self.score_example, examples)) / len(examples)

    def stderr(self, examples: Sequence[Example]) -> float | None:
        """Return the standard error of the mean; None for fewer than two examples."""
        error = mean_stderr([self.score_example(example) for example in examples])
        return None if error is None else 100.0 * error

    def example_statistics(self, examples: Sequence[Example]) -> np.ndarray:
        """Return [n], the score of each example."""
        return np.array([self.score_example(example) for example in examples], dtype=float)

    def score_resamples(self, numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the weighted mean of each sample, 0..100."""
        means: np.ndarray = 100.0 * (weights @ numbers) / weights.sum(-1)
        return means
