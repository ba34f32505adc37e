"""Corpus BLEU (Papineni et al. 2002), by sacrebleu: over mecab-ko morphemes into Korean, over 13a into English."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from bitnet_bench.errors import BenchError
from bitnet_bench.metrics.corpus import CorpusMetric, normalise_examples
from bitnet_bench.metrics.tokenizers import PROBE_SENTENCE, check_hangul
from bitnet_bench.runs.records import Example


class Bleu(CorpusMetric):
    """BLEU over the corpus, with sacrebleu's smoothing and the named tokenizer of sacrebleu."""

    name = "bleu"

    def __init__(self, tokens: str = "ko-mecab") -> None:
        from sacrebleu.metrics.bleu import BLEU

        if tokens not in BLEU.TOKENIZERS:
            raise BenchError(f"sacrebleu has no tokenizer {tokens!r}.", f"It has: {', '.join(BLEU.TOKENIZERS)}.")
        self.tokens = tokens
        check_hangul(tokens, [self.scorer.tokenizer(PROBE_SENTENCE)])

    @cached_property
    def scorer(self) -> Any:
        """Return sacrebleu's BLEU."""
        from sacrebleu.metrics.bleu import BLEU

        return BLEU(tokenize=self.tokens, effective_order=False)

    @cached_property
    def _sentence_bleu(self) -> Any:
        from sacrebleu.metrics.bleu import BLEU

        return BLEU(tokenize=self.tokens, effective_order=True)

    def score_example(self, example: Example) -> float:
        """Return sentence BLEU of one output, 0..1; the n-gram order is reduced for outputs too short for 4-grams."""
        outputs, references = normalise_examples([example])
        return float(self._sentence_bleu.sentence_score(outputs[0], [r[0] for r in references]).score) / 100.0

    def parts(self, examples: Sequence[Example]) -> dict[str, float]:
        """Return the precision of each n-gram order and the brevity penalty, 0..100."""
        found = self.scorer.corpus_score(*normalise_examples(examples))
        precisions = {f"{n}-gram": float(p) for n, p in enumerate(found.precisions, 1)}
        return precisions | {"brevity_penalty": 100.0 * float(found.bp)}
