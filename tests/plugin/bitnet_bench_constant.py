"""An inference-only backend with only what its base classes ask for: a uniform distribution over the vocabulary."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bitnet_bench.protocols import Completion, InferenceBackend, Session


class ConstantBackend(InferenceBackend):
    """Opens any checkpoint and ignores its weights."""

    summary = "every token is as likely as any other"

    @contextmanager
    def open(self, checkpoint: Any, precision: str) -> Iterator[ConstantSession]:
        """Open *checkpoint* for its tokenizer."""
        from transformers import AutoTokenizer

        yield ConstantSession(AutoTokenizer.from_pretrained(checkpoint.path), precision)


class ConstantSession(Session):
    """Scores by length alone and writes nothing."""

    max_length = 512

    def __init__(self, tokenizer: Any, precision: str) -> None:
        self.tokenizer, self.precision = tokenizer, precision

    def loglikelihood(self, requests: Sequence[Any], part: Any = None) -> Iterator[list[tuple[int, Any]]]:
        """Answer -tokens x log V, all at once."""
        bits = math.log(len(self.tokenizer))
        yield [(i, (-len(continuation) * bits, False)) for i, (_, continuation) in enumerate(requests)]

    def generate(
        self, prompts: Sequence[Any], max_new_tokens: int, stop: Sequence[str], part: Any = None, **_: Any
    ) -> Iterator[list[tuple[int, Completion]]]:
        """Answer every prompt with nothing."""
        yield [(i, Completion("")) for i in range(len(prompts))]

    def prefill(self, batch: Any) -> None:
        """Do nothing."""

    def decode(self, state: Any, steps: int) -> None:
        """Do nothing."""

    def footprint(self) -> tuple[int, int]:
        """Return no bytes."""
        return 0, 0
