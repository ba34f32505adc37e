"""The base of metrics that are a function of sums over examples: F1 from counts, correlation from moments."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from bitnet_bench.metrics.base import Metric
from bitnet_bench.runs.records import Example
from bitnet_bench.statistics import RESAMPLES, SEED, bootstrap_stderr

BOOTSTRAP_SIGNATURE = f"stderr:bootstrap-{RESAMPLES}-seed{SEED}"


class SumMetric(Metric):
    """A metric whose value is `score_sums` of the summed `additive_statistics` of the examples."""

    @abstractmethod
    def additive_statistics(self, examples: Sequence[Example]) -> np.ndarray:
        """Return [n, k]: the numbers of each example that are summed."""

    @abstractmethod
    def score_sums(self, sums: np.ndarray) -> np.ndarray:
        """Return the value, 0..1, for each of the sums [..., k]."""

    def score_example(self, example: Example) -> float:
        """Return the score of one example, 0..1."""
        return float(self.score_sums(self.additive_statistics([example]).sum(0)))

    def value(self, examples: Sequence[Example]) -> float:
        """Return the value over all examples, 0..100."""
        return 100.0 * float(self.score_sums(self.additive_statistics(examples).sum(0)))

    def stderr(self, examples: Sequence[Example]) -> float | None:
        """Return the bootstrap standard error over examples; None for fewer than two."""
        error = bootstrap_stderr(self.additive_statistics(examples), self.score_sums)
        return None if error is None else 100.0 * error

    def example_statistics(self, examples: Sequence[Example]) -> np.ndarray:
        """Return `additive_statistics`."""
        return self.additive_statistics(examples)

    def score_resamples(self, numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the value of each weighted sum, 0..100."""
        figures: np.ndarray = 100.0 * self.score_sums(weighted_sums(numbers, weights))
        return figures


def weighted_sums(numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return [R, ...], the sums of *numbers* [n, ...] that each sample holds *weights* [R, n] times."""
    flat = numbers.reshape(len(numbers), -1).astype(float)
    sums: np.ndarray = (weights @ flat).reshape(-1, *numbers.shape[1:])
    return sums


def f1_from_counts(hits: np.ndarray, involved: np.ndarray, absent: float = 0.0) -> np.ndarray:
    """Return F1 = 2 hits / involved, where *involved* counts targets and outputs; *absent* if that is 0."""
    f1: np.ndarray = np.divide(2.0 * hits, involved, out=np.full(np.shape(hits), absent), where=involved > 0)
    return f1


def count_label_hits(
    targets: Sequence[Sequence[str]], outputs: Sequence[Sequence[str]], labels: Sequence[str]
) -> np.ndarray:
    """Return [n, 2, labels]: for each example, the hits and the targets plus outputs of each label.

    Targets and outputs are aligned, position by position. Values outside *labels* are not counted.
    """
    place = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((len(targets), 2, len(labels)), dtype=np.int64)
    for row, target, output in zip(counts, targets, outputs, strict=True):
        for wanted, given in zip(target, output, strict=True):
            if wanted in place:
                row[1, place[wanted]] += 1
            if given in place:
                row[1, place[given]] += 1
                row[0, place[given]] += wanted == given
    return counts


def macro_f1_from_counts(sums: np.ndarray) -> np.ndarray:
    """Return the mean F1 over the labels that occur, for sums [..., 2, labels] of `count_label_hits`."""
    hits, involved = sums[..., 0, :], sums[..., 1, :]
    return mean_over_occurring(f1_from_counts(hits, involved), involved)


def mean_over_occurring(scores: np.ndarray, involved: np.ndarray) -> np.ndarray:
    """Return the mean over labels of *scores* [..., labels], without labels whose *involved* is 0; 0 if all are."""
    mean: np.ndarray = scores.sum(-1) / np.maximum((involved > 0).sum(-1), 1)
    return mean
