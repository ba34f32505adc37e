"""Macro-averaged F1 over the labels of a classification task (KoBEST, KLUE ynat)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitnet_bench.records import Example
from bitnet_bench.statistics import RESAMPLES, SEED, confusion_bootstrap_stderr


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Return the mean over labels of 2 TP / (2 TP + FP + FN) for confusion[..., target, output].

    A label that is neither a target nor an output is left out, as in scikit-learn without `labels`.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    involved = confusion.sum(-1) + confusion.sum(-2)
    f1 = np.divide(2.0 * hits, involved, out=np.zeros_like(involved, dtype=float), where=involved > 0)
    scores: np.ndarray = f1.sum(-1) / (involved > 0).sum(-1)
    return scores


class MacroF1:
    """Macro-F1; where the choices of a task differ by row (COPA, HellaSwag) a label is the choice's position."""

    def of_one(self, example: Example) -> float:
        """Return 1.0 if the output is the target: F1 has no meaning on one example."""
        return float(example.output_choice == example.target_choice)

    def value(self, examples: Sequence[Example]) -> float:
        """Return 100 x macro-F1."""
        return 100.0 * float(macro_f1(_confusion(examples)))

    def stderr(self, examples: Sequence[Example]) -> float | None:
        """Return its bootstrap standard error over examples."""
        error = confusion_bootstrap_stderr(_confusion(examples), macro_f1)
        return None if error is None else 100.0 * error

    def signature(self) -> str:
        """Return the signature."""
        return f"macro_f1|choice:argmax-loglikelihood|stderr:bootstrap-{RESAMPLES}-seed{SEED}|v1"


def _confusion(examples: Sequence[Example]) -> np.ndarray:
    labels = max(len(example.choices) for example in examples)
    matrix = np.zeros((labels, labels), dtype=np.int64)
    for example in examples:
        matrix[example.target_choice, example.output_choice] += 1
    return matrix
