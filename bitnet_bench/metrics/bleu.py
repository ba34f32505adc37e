"""Corpus BLEU into Korean, by sacrebleu with its mecab-ko tokenizer."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from bitnet_bench.metrics.corpus import CorpusMetric, outputs_and_references
from bitnet_bench.records import Example


class Bleu(CorpusMetric):
    """BLEU (Papineni et al. 2002) over the corpus, with sacrebleu's smoothing."""

    name = "bleu"

    @cached_property
    def scorer(self) -> Any:
        """Return sacrebleu's BLEU over morphemes."""
        from sacrebleu.metrics.bleu import BLEU

        return BLEU(tokenize="ko-mecab", effective_order=False)

    @cached_property
    def _sentence_bleu(self) -> Any:
        from sacrebleu.metrics.bleu import BLEU

        return BLEU(tokenize="ko-mecab", effective_order=True)

    def of_one(self, example: Example) -> float:
        """Return sentence BLEU of one output, 0..1: short outputs have no 4-grams, so the order is cut to fit."""
        outputs, references = outputs_and_references([example])
        return float(self._sentence_bleu.sentence_score(outputs[0], [r[0] for r in references]).score) / 100.0
