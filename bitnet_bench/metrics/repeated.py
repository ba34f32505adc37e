"""A metric over several answers to each row: rows are independent, the answers to one row are not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitnet_bench.metrics.base import Metric
from bitnet_bench.metrics.mean import MeanMetric
from bitnet_bench.runs.records import Example
from bitnet_bench.statistics import bootstrap_counts


def repeat_metric(metric: Metric, answers: int) -> Metric:
    """Return *metric* over examples that have *answers* answers each."""
    is_mean = isinstance(metric, MeanMetric) and type(metric).value is MeanMetric.value
    return RepeatedMean(metric, answers) if is_mean else RepeatedMetric(metric, answers)


class RepeatedMean(MeanMetric):
    """The mean over rows of the mean over each row's answers.

    With m_i the mean of row i and m that of all n rows, the standard error is sqrt(sum (m_i - m)^2 / (n (n - 1))). The
    variance of m_i is that between rows plus that between the answers to one row over their number, so it covers both.
    """

    def __init__(self, metric: Metric, answers: int) -> None:
        self._metric, self._answers = metric, answers
        self.name, self.limits, self.lower_is_better = metric.name, metric.limits, metric.lower_is_better

    def score_example(self, example: Example) -> float:
        """Return the mean score of the answers."""
        scores = [self._metric.score_example(one) for one in example.each_answer()]
        return sum(scores) / len(scores)

    def signature(self) -> str:
        """Return the metric's signature with the number of answers."""
        return f"{self._metric.signature()}|answers:{self._answers}"

    def parts(self, examples: Sequence[Example]) -> dict[str, float]:
        """Return the metric's parts over all answers."""
        return self._metric.parts([one for example in examples for one in example.each_answer()])


class RepeatedMetric(Metric):
    """A metric over all answers to all rows, whose standard error is a bootstrap over rows with all their answers."""

    def __init__(self, metric: Metric, answers: int) -> None:
        self._metric, self._answers = metric, answers
        self.name, self.limits, self.lower_is_better = metric.name, metric.limits, metric.lower_is_better

    def score_example(self, example: Example) -> float:
        """Return the mean score of the answers."""
        scores = [self._metric.score_example(one) for one in example.each_answer()]
        return sum(scores) / len(scores)

    def value(self, examples: Sequence[Example]) -> float:
        """Return the value over all answers."""
        return self._metric.value(_list_answers(examples))

    def stderr(self, examples: Sequence[Example]) -> float | None:
        """Return the bootstrap standard error over rows; None for fewer than two."""
        if len(examples) < 2:
            return None
        numbers = self.example_statistics(examples)
        found = [self.score_resamples(numbers, counts) for counts in bootstrap_counts(len(examples))]
        return float(np.std(np.concatenate(found), ddof=1))

    def example_statistics(self, examples: Sequence[Example]) -> np.ndarray:
        """Return [n, answers, ...]: what the value needs of each answer."""
        numbers = self._metric.example_statistics(_list_answers(examples))
        return numbers.reshape(len(examples), self._answers, *numbers.shape[1:])

    def score_resamples(self, numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the value of samples that hold each row, with all its answers, *weights* [R, n] times."""
        flat = numbers.reshape(-1, *numbers.shape[2:])
        return self._metric.score_resamples(flat, np.repeat(weights, self._answers, axis=1))

    def signature(self) -> str:
        """Return the metric's signature with the number of answers, whose rows are what is drawn."""
        return f"{self._metric.signature()}|answers:{self._answers}, bootstrap over rows"

    def parts(self, examples: Sequence[Example]) -> dict[str, float]:
        """Return the metric's parts over all answers."""
        return self._metric.parts(_list_answers(examples))


def _list_answers(examples: Sequence[Example]) -> list[Example]:
    return [one for example in examples for one in example.each_answer()]
