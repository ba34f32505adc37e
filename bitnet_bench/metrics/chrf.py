"""chrF++ (Popovic 2017), by sacrebleu: character n-grams and word bigrams."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from bitnet_bench.metrics.corpus import corpus_stderr, outputs_and_references
from bitnet_bench.records import Example


class ChrfPlusPlus:
    """chrF with word order 2 over the corpus."""

    @cached_property
    def _chrf(self) -> Any:
        from sacrebleu.metrics.chrf import CHRF

        return CHRF(word_order=2)

    def of_one(self, example: Example) -> float:
        """Return chrF++ of one output, 0..1."""
        return self.value([example]) / 100.0

    def value(self, examples: Sequence[Example]) -> float:
        """Return corpus chrF++, 0..100."""
        return float(self._chrf.corpus_score(*outputs_and_references(examples)).score)

    def stderr(self, examples: Sequence[Example]) -> float | None:
        """Return its bootstrap standard error over examples."""
        return corpus_stderr(self._chrf, examples)

    def signature(self) -> str:
        """Return sacrebleu's own signature, with ours."""
        self._chrf.num_refs = getattr(self._chrf, "num_refs", 1)  # unknown until something was scored
        return f"chrf++|sacrebleu:{self._chrf.get_signature()}|norm:nfc|v1"
