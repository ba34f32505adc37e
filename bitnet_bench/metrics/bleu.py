"""Corpus BLEU into Korean, by sacrebleu with its mecab-ko tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from bitnet_bench.metrics.corpus import corpus_stderr, outputs_and_references
from bitnet_bench.records import Example


class Bleu:
    """BLEU (Papineni et al. 2002) over the corpus, with sacrebleu's smoothing."""

    @cached_property
    def _bleu(self) -> Any:
        from sacrebleu.metrics.bleu import BLEU

        return BLEU(tokenize="ko-mecab", effective_order=False)

    @cached_property
    def _sentence_bleu(self) -> Any:
        from sacrebleu.metrics.bleu import BLEU

        return BLEU(tokenize="ko-mecab", effective_order=True)

    def of_one(self, example: Example) -> float:
        """Return sentence BLEU of one output, 0..1."""
        outputs, references = outputs_and_references([example])
        return float(self._sentence_bleu.sentence_score(outputs[0], [r[0] for r in references]).score) / 100.0

    def value(self, examples: Sequence[Example]) -> float:
        """Return corpus BLEU, 0..100."""
        return float(self._bleu.corpus_score(*outputs_and_references(examples)).score)

    def stderr(self, examples: Sequence[Example]) -> float | None:
        """Return its bootstrap standard error over examples."""
        return corpus_stderr(self._bleu, examples)

    def signature(self) -> str:
        """Return sacrebleu's own signature, with ours."""
        self._bleu.num_refs = getattr(self._bleu, "num_refs", 1)  # unknown until something was scored
        return f"bleu|sacrebleu:{self._bleu.get_signature()}|norm:nfc|v1"
