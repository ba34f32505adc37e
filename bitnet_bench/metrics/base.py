"""The base class of metrics, with defaults of what only some of them have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from bitnet_bench.protocols import Contract
from bitnet_bench.runs.records import Example


class Metric(Contract, ABC):
    """A figure over all examples of a task, in 0..100 where `limits` say nothing else, and on one example in 0..1."""

    name: str = ""
    """What it is called in its signature."""
    limits: tuple[float, float | None] = (0.0, 100.0)
    lower_is_better: bool = False

    @abstractmethod
    def score_example(self, example: Example) -> float:
        """Return the figure of one example, 0..1; for a corpus metric, that of a corpus of this example alone."""

    @abstractmethod
    def value(self, examples: Sequence[Example]) -> float:
        """Return the figure."""

    @abstractmethod
    def stderr(self, examples: Sequence[Example]) -> float | None:
        """Return its standard error in the same unit, or None where there are too few examples for one."""

    @abstractmethod
    def example_statistics(self, examples: Sequence[Example]) -> np.ndarray:
        """Return [n, ...]: all that the figure needs of each example."""

    @abstractmethod
    def score_resamples(self, numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the figure [R] of samples that hold each example *weights* [R, n] times; `value` where all are 1."""

    @abstractmethod
    def signature(self) -> str:
        """Return name, tokenizer, normalisation, kind of standard error, and version."""

    def parts(self, examples: Sequence[Example]) -> dict[str, float]:
        """Return the figure of each label, entity type or n-gram order, in the same unit; {} without such parts."""
        return {}
