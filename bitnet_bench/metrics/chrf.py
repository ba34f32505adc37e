"""chrF++ (Popovic 2017), by sacrebleu: character n-grams and word bigrams."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from bitnet_bench.metrics.corpus import CorpusMetric
from bitnet_bench.runs.records import Example


class ChrfPlusPlus(CorpusMetric):
    """chrF with word order 2 over the corpus."""

    name = "chrf++"

    @cached_property
    def scorer(self) -> Any:
        """Return sacrebleu's chrF."""
        from sacrebleu.metrics.chrf import CHRF

        return CHRF(word_order=2)

    def score_example(self, example: Example) -> float:
        """Return chrF++ of one output, 0..1."""
        return self.value([example]) / 100.0
