"""An inference-only backend that needs nothing but the protocol: a uniform distribution over the vocabulary."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class ConstantBackend:
    """Opens any checkpoint and ignores its weights."""

    summary = "every token is as likely as any other"

    @contextmanager
    def open(self, checkpoint: Any, precision: str) -> Iterator[ConstantSession]:
        """Open *checkpoint* for its tokenizer."""
        from transformers import AutoTokenizer

        yield ConstantSession(AutoTokenizer.from_pretrained(checkpoint.path), precision)


class ConstantSession:
    """Scores by length alone and writes nothing."""

    max_length = 512

    def __init__(self, tokenizer: Any, precision: str) -> None:
        self.tokenizer, self.precision = tokenizer, precision

    def loglikelihood(self, requests: Sequence[Any], progress: Any) -> list[tuple[float, bool]]:
        """Return -tokens x log V."""
        progress(len(requests), len(requests))
        return [(-len(continuation) * math.log(len(self.tokenizer)), False) for _, continuation in requests]

    def generate(self, prompts: Sequence[Any], max_new_tokens: int, stop: Sequence[str], progress: Any) -> list[str]:
        """Return nothing for every prompt."""
        return ["" for _ in prompts]

    def prefill(self, batch: Any) -> None:
        """Do nothing."""

    def decode(self, state: Any, steps: int) -> None:
        """Do nothing."""

    def footprint(self) -> tuple[int, int]:
        """Return no bytes."""
        return 0, 0
