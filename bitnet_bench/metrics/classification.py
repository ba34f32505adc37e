"""Precision, recall and F1 over the labels of a classification task, as scikit-learn defines them.

If the choices of a task differ by row (COPA, HellaSwag), a label is the position of the choice.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from bitnet_bench.errors import BenchError
from bitnet_bench.metrics.base import Metric
from bitnet_bench.metrics.sums import BOOTSTRAP_SIGNATURE, f1_from_counts, mean_over_occurring
from bitnet_bench.runs.example_table import find_longest, list_values
from bitnet_bench.runs.records import Example
from bitnet_bench.statistics import confusion_bootstrap_stderr


def label_f1(confusion: np.ndarray) -> np.ndarray:
    """Return F1 of every label, 2 TP / (2 TP + FP + FN), for confusion[..., target, output]."""
    return f1_from_counts(_true_positives(confusion), confusion.sum(-1) + confusion.sum(-2))


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Return the mean of `label_f1`, without labels that are neither a target nor an output (as scikit-learn)."""
    return _macro_average(label_f1(confusion), confusion)


class ConfusionMetric(Metric, adds=("target_and_output", "count_labels")):
    """A metric whose value is `score_confusion` of confusion[..., target, output]."""

    choice = "argmax-loglikelihood"

    @abstractmethod
    def score_confusion(self, confusion: np.ndarray) -> np.ndarray:
        """Return the value, 0..1."""

    def target_and_output(self, example: Example) -> tuple[int, int]:
        """Return the target and the output of an example, as labels 0, 1, ..."""
        if example.target_choice is None or example.output_choice is None:
            raise BenchError(
                f"{self.name} is for tasks that choose, and {example.task} generates.", "Take another metric."
            )
        return example.target_choice, example.output_choice

    def count_labels(self, examples: Sequence[Example]) -> int:
        """Return how many labels there are."""
        return find_longest(examples, "choices")

    def score_example(self, example: Example) -> float:
        """Return 1.0 if the output is the target, because these metrics have no meaning for one example."""
        target, output = self.target_and_output(example)
        return float(target == output)

    def value(self, examples: Sequence[Example]) -> float:
        """Return the value over all examples, 0..100."""
        return 100.0 * float(self.score_confusion(self._count_confusion(examples)))

    def stderr(self, examples: Sequence[Example]) -> float | None:
        """Return the bootstrap standard error over examples; None for fewer than two."""
        error = confusion_bootstrap_stderr(self._count_confusion(examples), self.score_confusion)
        return None if error is None else 100.0 * error

    def example_statistics(self, examples: Sequence[Example]) -> np.ndarray:
        """Return [n, 3]: target, output, and number of labels."""
        labels = self.count_labels(examples)
        if type(self).target_and_output is ConfusionMetric.target_and_output:
            chosen = [list_values(examples, name) for name in ("target_choice", "output_choice")]
            if None not in chosen[0] and None not in chosen[1]:
                return np.column_stack([*(np.array(one, np.int64) for one in chosen), np.full(len(examples), labels)])
        return np.array([(*self.target_and_output(example), labels) for example in examples], dtype=np.int64)

    def score_resamples(self, numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the value of each sample, 0..100."""
        targets, outputs, labels = numbers.astype(np.int64).T
        k = int(labels[0])
        cells, place = np.unique(targets * k + outputs, return_inverse=True)
        held = np.zeros((len(numbers), len(cells)))
        held[np.arange(len(numbers)), place] = 1.0
        confusion = np.zeros((len(weights), k * k))
        confusion[:, cells] = weights @ held
        figures: np.ndarray = 100.0 * self.score_confusion(confusion.reshape(-1, k, k))
        return figures

    def signature(self) -> str:
        """Return the signature."""
        return f"{self.name}|choice:{self.choice}|{BOOTSTRAP_SIGNATURE}|v1"

    def _count_confusion(self, examples: Sequence[Example]) -> np.ndarray:
        labels = self.count_labels(examples)
        matrix = np.zeros((labels, labels), dtype=np.int64)
        for example in examples:
            matrix[self.target_and_output(example)] += 1
        return matrix


class MacroF1(ConfusionMetric):
    """Macro-averaged F1 (KoBEST, KLUE ynat)."""

    name = "macro_f1"

    def score_confusion(self, confusion: np.ndarray) -> np.ndarray:
        """Return macro-F1, 0..1."""
        return macro_f1(confusion)

    def parts(self, examples: Sequence[Example]) -> dict[str, float]:
        """Return F1 of each label, 0..100; {} if the choices differ by row."""
        if len({example.choices for example in examples}) != 1:
            return {}
        scores = 100.0 * label_f1(self._count_confusion(examples))
        return dict(zip(examples[0].choices, scores.tolist(), strict=True))


class MicroF1(ConfusionMetric):
    """Micro-averaged F1 over all labels, which equals the accuracy for one label per example."""

    name = "micro_f1"

    def score_confusion(self, confusion: np.ndarray) -> np.ndarray:
        """Return micro-F1, 0..1."""
        scores: np.ndarray = _true_positives(confusion).sum(-1) / confusion.sum((-2, -1))
        return scores


class WeightedF1(ConfusionMetric):
    """Mean of the labels' F1, weighted by how often each label is the target."""

    name = "weighted_f1"

    def score_confusion(self, confusion: np.ndarray) -> np.ndarray:
        """Return weighted F1, 0..1."""
        scores: np.ndarray = (label_f1(confusion) * confusion.sum(-1)).sum(-1) / confusion.sum((-2, -1))
        return scores


class MacroPrecision(ConfusionMetric):
    """Mean over labels of TP / (TP + FP), with 0 for a label that is never the output."""

    name = "macro_precision"

    def score_confusion(self, confusion: np.ndarray) -> np.ndarray:
        """Return macro precision, 0..1."""
        return _macro_average(_divide_or_zero(_true_positives(confusion), confusion.sum(-2)), confusion)


class MacroRecall(ConfusionMetric):
    """Mean over labels of TP / (TP + FN), with 0 for a label that is never the target."""

    name = "macro_recall"

    def score_confusion(self, confusion: np.ndarray) -> np.ndarray:
        """Return macro recall, 0..1."""
        return _macro_average(_divide_or_zero(_true_positives(confusion), confusion.sum(-1)), confusion)


class PositiveF1(ConfusionMetric):
    """F1 of one class, by its index: `f1` is that of choice 1, `f1:0` that of choice 0."""

    def __init__(self, positive: str = "1") -> None:
        if not positive.isdecimal():
            raise BenchError(f"'f1:{positive}' names no class by its index.", "Write f1:0, f1:1 and so on.")
        self.positive = int(positive)
        self.name = f"f1:{self.positive}"

    def score_confusion(self, confusion: np.ndarray) -> np.ndarray:
        """Return F1 of the positive class, 0..1; 0 if it is neither a target nor an output."""
        if self.positive >= confusion.shape[-1]:
            raise BenchError(f"{self.name} asks for class {self.positive} of {confusion.shape[-1]}.", "Count from 0.")
        return label_f1(confusion)[..., self.positive]


def _true_positives(confusion: np.ndarray) -> np.ndarray:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _divide_or_zero(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    share: np.ndarray = np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole > 0)
    return share


def _macro_average(scores: np.ndarray, confusion: np.ndarray) -> np.ndarray:
    return mean_over_occurring(scores, confusion.sum(-1) + confusion.sum(-2))
