"""Accuracy: the share of examples whose most likely choice is the target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitnet_bench.metrics.mean import MeanMetric
from bitnet_bench.runs.example_table import list_values
from bitnet_bench.runs.records import Example


class Accuracy(MeanMetric):
    """Share of examples whose most likely choice is the target; of equally likely choices, the first counts."""

    is_right_or_wrong = True

    def score_example(self, example: Example) -> float:
        """Return 1.0 if the most likely choice is the target."""
        return float(example.output_choice == example.target_choice)

    def example_statistics(self, examples: Sequence[Example]) -> np.ndarray:
        """Return [n], the score of each example."""
        if type(self).score_example is not Accuracy.score_example:
            return super().example_statistics(examples)
        chosen = zip(list_values(examples, "output_choice"), list_values(examples, "target_choice"), strict=True)
        return np.array([output == target for output, target in chosen], dtype=float)

    def signature(self) -> str:
        """Return the signature."""
        return "accuracy|choice:argmax-loglikelihood|stderr:mean|v1"


class LengthNormalisedAccuracy(Accuracy):
    """Accuracy of the choice with the largest log-probability per character (lm-eval's acc_norm)."""

    def score_example(self, example: Example) -> float:
        """Return 1.0 if the length-normalised choice is the target."""
        rates = [ll / len(choice) for ll, choice in zip(example.loglikelihoods, example.choices, strict=True)]
        return float(rates.index(max(rates)) == example.target_choice)

    def signature(self) -> str:
        """Return the signature."""
        return "accuracy_norm|choice:argmax-loglikelihood-per-character|stderr:mean|v1"


class ExtractedAccuracy(Accuracy):
    """Share of examples whose generated text names the target; a text that names no single choice is wrong."""

    def signature(self) -> str:
        """Return the signature; its rules are those of `bitnet_bench.evaluation.extraction`."""
        return "extracted_accuracy|choice:extracted-rules1|malformed:wrong|stderr:mean|v1"
