"""Pack several short examples into one sequence, each of them whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitnet_bench.data.tokenizing import IGNORED_LABEL, TrainingExample
from bitnet_bench.errors import BenchError

ISOLATING_ARCHITECTURES = {"bitnet", "llama", "mistral", "qwen2", "qwen3"}
"""Architectures known to keep the documents of a sequence apart by position ids that restart, without a mask."""


def pack_examples(examples: Sequence[TrainingExample], max_length: int) -> list[TrainingExample]:
    """Return *examples* joined into sequences of at most *max_length* tokens; a longer one stays alone.

    First-fit decreasing: documents, the longest first, go into the first sequence that has room.
    """
    longest_first = sorted(range(len(examples)), key=lambda i: -len(examples[i].input_ids))
    room = np.full(len(examples), max_length)
    bins: list[list[TrainingExample]] = []
    for i in longest_first:
        length = len(examples[i].input_ids)
        fitting = int(np.argmax(room[: len(bins)] >= length)) if bins else 0
        if not bins or room[fitting] < length:
            fitting = len(bins)
            bins.append([])
        bins[fitting].append(examples[i])
        room[fitting] -= length
    return [_join_examples(members) for members in bins]


def _join_examples(members: Sequence[TrainingExample]) -> TrainingExample:
    """Return one sequence; the first token of a document has no label, because its context is another document."""
    ids = [token for member in members for token in member.input_ids]
    labels = [label for member in members for label in (IGNORED_LABEL, *member.labels[1:])]
    return TrainingExample(ids, labels, tuple(len(member.input_ids) for member in members) if len(members) > 1 else ())


def check_packing_support(architecture: str) -> None:
    """Raise BenchError unless *architecture* (`model_type` of a config) is known to keep packed documents apart."""
    if architecture not in ISOLATING_ARCHITECTURES:
        raise BenchError(
            f"It is not known whether {architecture} keeps the documents of a packed sequence apart.",
            f"Train it without `packing`; it is known of {', '.join(sorted(ISOLATING_ARCHITECTURES))}.",
        )
