"""The share of examples whose most likely choice is the target."""

from __future__ import annotations

from collections.abc import Sequence

from bitnet_bench.records import Example
from bitnet_bench.statistics import mean_stderr


class Accuracy:
    """The most likely choice is the target; the first of equally likely ones counts."""

    def of_one(self, example: Example) -> float:
        """Return 1.0 if the most likely choice is the target."""
        return float(example.output_choice == example.target_choice)

    def value(self, examples: Sequence[Example]) -> float:
        """Return the percentage of right outputs."""
        return 100.0 * sum(map(self.of_one, examples)) / len(examples)

    def stderr(self, examples: Sequence[Example]) -> float | None:
        """Return the standard error of the mean."""
        error = mean_stderr([self.of_one(example) for example in examples])
        return None if error is None else 100.0 * error

    def signature(self) -> str:
        """Return the signature."""
        return "accuracy|choice:argmax-loglikelihood|stderr:mean|v1"


class LengthNormalisedAccuracy(Accuracy):
    """Accuracy of the choice with the largest log-probability per character (lm-eval's acc_norm)."""

    def of_one(self, example: Example) -> float:
        """Return 1.0 if the length-normalised choice is the target."""
        rates = [ll / len(choice) for ll, choice in zip(example.loglikelihoods, example.choices, strict=True)]
        return float(rates.index(max(rates)) == example.target_choice)

    def signature(self) -> str:
        """Return the signature."""
        return "accuracy_norm|choice:argmax-loglikelihood-per-character|stderr:mean|v1"
