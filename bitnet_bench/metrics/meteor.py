"""METEOR without synonyms (Banerjee and Lavie 2005), by nltk, over Korean morphemes.

WordNet and the Porter stemmer are for English. Morphemes are stems already, so only exact matches are used.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from bitnet_bench.metrics.mean import MeanMetric
from bitnet_bench.metrics.tokenizers import load_metric_tokenizer
from bitnet_bench.runs.records import Example


class _NoSynonyms:
    """Replacement of nltk's WordNet without any synonyms."""

    def synsets(self, _word: str) -> list[Any]:
        return []


class _NoStemmer:
    """Stemmer in nltk's protocol that returns a morpheme unchanged."""

    def stem(self, word: str) -> str:
        return word


class Meteor(MeanMetric):
    """Mean over examples of the best METEOR over the references; alpha 0.9, beta 3, gamma 0.5."""

    def __init__(self, tokens: str = "mecab") -> None:
        self.tokens = tokens
        self.tokenizer_name = load_metric_tokenizer(tokens).name

    def score_example(self, example: Example) -> float:
        """Return METEOR of one output, 0..1."""
        return max(_meteor_score(self.tokens, reference, example.output) for reference in example.references)

    def signature(self) -> str:
        """Return the signature."""
        from importlib.metadata import version

        return f"meteor|nltk:{version('nltk')}|synonyms:no|tok:{self.tokenizer_name}|norm:nfc|refs:max|stderr:mean|v1"


@lru_cache(maxsize=1 << 16)
def _meteor_score(tokens: str, reference: str, output: str) -> float:
    from nltk.translate.meteor_score import single_meteor_score

    split = load_metric_tokenizer(tokens).tokenize
    return float(single_meteor_score(split(reference), split(output), stemmer=_NoStemmer(), wordnet=_NoSynonyms()))
