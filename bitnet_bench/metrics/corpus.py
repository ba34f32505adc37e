"""The base of sacrebleu's corpus metrics: inputs in NFC, and a vectorised bootstrap over their statistics."""

from __future__ import annotations

import unicodedata
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from bitnet_bench.metrics.base import Metric
from bitnet_bench.runs.records import Example
from bitnet_bench.statistics import bootstrap_stderr


def normalise_examples(examples: Sequence[Example]) -> tuple[list[str], list[list[str]]]:
    """Return (outputs, reference streams) in NFC; a row with fewer references repeats its first."""
    width = max(len(example.references) for example in examples)
    outputs = [unicodedata.normalize("NFC", example.output) for example in examples]
    streams = [
        [unicodedata.normalize("NFC", e.references[i] if i < len(e.references) else e.references[0]) for e in examples]
        for i in range(width)
    ]
    return outputs, streams


class CorpusMetric(Metric):
    """A sacrebleu metric over the whole corpus; subclasses define *name* and `scorer`."""

    @property
    @abstractmethod
    def scorer(self) -> Any:
        """Return sacrebleu's metric."""

    def value(self, examples: Sequence[Example]) -> float:
        """Return the corpus score, 0..100."""
        return float(self.scorer.corpus_score(*normalise_examples(examples)).score)

    def stderr(self, examples: Sequence[Example]) -> float | None:
        """Return the bootstrap standard error over examples; None for fewer than two."""
        return bootstrap_stderr(self.example_statistics(examples), self._score_sums)

    def example_statistics(self, examples: Sequence[Example]) -> np.ndarray:
        """Return [n, k], sacrebleu's statistics of each example."""
        return np.array(self.scorer._extract_corpus_statistics(*normalise_examples(examples)))

    def score_resamples(self, numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the corpus score of each sample, 0..100."""
        return self._score_sums(weights @ numbers)

    def _score_sums(self, sums: np.ndarray) -> np.ndarray:
        return np.array([self.scorer._compute_score_from_stats(list(row)).score for row in sums])

    def signature(self) -> str:
        """Return sacrebleu's signature, extended by this project's."""
        self.scorer.num_refs = getattr(self.scorer, "num_refs", 1)  # not set until something was scored
        return f"{self.name}|sacrebleu:{self.scorer.get_signature()}|norm:nfc|v1"
