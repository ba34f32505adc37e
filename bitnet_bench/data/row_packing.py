"""Put several short examples into one sequence, each of them whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitnet_bench.data.tokenizing import IGNORED, Example
from bitnet_bench.errors import BenchError

ISOLATING = {"bitnet", "llama", "mistral", "qwen2", "qwen3"}
"""Architectures known to keep the documents of a sequence apart, by position ids that restart and no mask."""


def pack(examples: Sequence[Example], max_length: int) -> list[Example]:
    """Return *examples* joined into sequences of at most *max_length* tokens; a longer one stays alone.

    First-fit decreasing: a document goes, the longest first, into the first sequence that has room for it.
    """
    longest_first = sorted(range(len(examples)), key=lambda i: -len(examples[i].input_ids))
    room = np.full(len(examples), max_length)
    bins: list[list[Example]] = []
    for i in longest_first:
        length = len(examples[i].input_ids)
        fitting = int(np.argmax(room[: len(bins)] >= length)) if bins else 0
        if not bins or room[fitting] < length:
            fitting = len(bins)
            bins.append([])
        bins[fitting].append(examples[i])
        room[fitting] -= length
    return [_joined(members) for members in bins]


def _joined(members: Sequence[Example]) -> Example:
    """Return one sequence; the first token of a document has no label, for what stands before it is another's."""
    ids = [token for member in members for token in member.input_ids]
    labels = [label for member in members for label in (IGNORED, *member.labels[1:])]
    return Example(ids, labels, tuple(len(member.input_ids) for member in members) if len(members) > 1 else ())


def refuse_unknown(architecture: str) -> None:
    """BenchError unless *architecture* (a config's `model_type`) is known to keep packed documents apart."""
    if architecture not in ISOLATING:
        raise BenchError(
            f"It is not known whether {architecture} keeps the documents of a packed sequence apart.",
            f"Train it without `packing`; it is known of {', '.join(sorted(ISOLATING))}.",
        )
