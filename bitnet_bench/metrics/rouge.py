"""ROUGE-L F over Korean morphemes: rouge_score's scorer with a mecab-ko tokenizer.

rouge_score's own tokenizer keeps only [a-z0-9] and so gives Korean 0, or a false 1 where digits agree.
"""

from __future__ import annotations

import unicodedata
from functools import cached_property
from typing import Any

from bitnet_bench.metrics.mean import MeanMetric
from bitnet_bench.records import Example


class _Morphemes:
    """rouge_score's tokenizer protocol over sacrebleu's mecab-ko tokenizer."""

    def __init__(self) -> None:
        from sacrebleu.tokenizers.tokenizer_ko_mecab import TokenizerKoMecab

        self._mecab = TokenizerKoMecab()

    def tokenize(self, text: str) -> list[str]:
        return list(self._mecab(unicodedata.normalize("NFC", text)).split())


class RougeL(MeanMetric):
    """Mean over examples of the best ROUGE-L F over the references (Lin 2004)."""

    @cached_property
    def _scorer(self) -> Any:
        from rouge_score.rouge_scorer import RougeScorer

        return RougeScorer(["rougeL"], tokenizer=_Morphemes())

    def of_one(self, example: Example) -> float:
        """Return ROUGE-L F of one output, 0..1."""
        return max(float(self._scorer.score(ref, example.output)["rougeL"].fmeasure) for ref in example.references)

    def signature(self) -> str:
        """Return the signature."""
        from importlib.metadata import version

        return f"rougeL|tok:mecab-ko-{version('mecab-ko')}|norm:nfc|refs:max|stderr:mean|v1"
