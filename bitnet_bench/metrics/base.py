"""The base class of metrics, with defaults for optional members."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from bitnet_bench.protocols import Contract
from bitnet_bench.runs.records import Example


class Metric(Contract, ABC):
    """A value over all examples of a task, 0..100 unless `limits` says otherwise, and a score per example, 0..1."""

    name: str = ""
    """Name of the metric in its signature."""
    limits: tuple[float, float | None] = (0.0, 100.0)
    lower_is_better: bool = False
    is_right_or_wrong: bool = False
    """True if the score of an example is 1 or 0: several answers to a row then also get pass@k and a vote."""
    reads_all_answers: bool = False
    """True if the score of an example is that of all answers to it together."""

    @abstractmethod
    def score_example(self, example: Example) -> float:
        """Return the score of one example, 0..1; for a corpus metric, that of a corpus of this example alone."""

    @abstractmethod
    def value(self, examples: Sequence[Example]) -> float:
        """Return the value over all examples."""

    @abstractmethod
    def stderr(self, examples: Sequence[Example]) -> float | None:
        """Return the standard error of the value in the same unit, or None if there are too few examples for one."""

    @abstractmethod
    def example_statistics(self, examples: Sequence[Example]) -> np.ndarray:
        """Return [n, ...]: all that the value needs of each example."""

    @abstractmethod
    def score_resamples(self, numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the value [R] of samples that hold each example *weights* [R, n] times; `value` if all are 1."""

    @abstractmethod
    def signature(self) -> str:
        """Return the signature: name, tokenizer, normalisation, kind of standard error, and version."""

    def parts(self, examples: Sequence[Example]) -> dict[str, float]:
        """Return the value for each label, entity type or n-gram order, in the same unit; {} without such parts."""
        return {}
