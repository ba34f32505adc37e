"""Pack several short examples into one sequence, each of them whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitnet_bench.data.examples import IGNORED_LABEL, TrainingExample
from bitnet_bench.data.token_table import Examples, as_examples
from bitnet_bench.errors import BenchError

ISOLATING_ARCHITECTURES = {"bitnet", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"}
"""Architectures known to keep the documents of a sequence apart by position ids that restart, without a mask."""


class PackedExamples(Examples):
    """Sequences that are joined from examples when they are asked for."""

    def __init__(self, examples: Examples, members: np.ndarray, sizes: np.ndarray) -> None:
        self._examples, self._members = examples, members
        self._ends = np.cumsum(sizes)
        self._sizes = sizes
        self.lengths = np.add.reduceat(examples.lengths[members], self._ends - sizes) if len(sizes) else members

    def make(self, at: int) -> TrainingExample:
        """Return the sequence at the place *at*."""
        end, size = int(self._ends[at]), int(self._sizes[at])
        return _join_examples([self._examples.make(int(i)) for i in self._members[end - size : end]])


def pack_examples(examples: Sequence[TrainingExample], max_length: int) -> PackedExamples:
    """Return *examples* joined into sequences of at most *max_length* tokens; a longer one stays alone.

    First-fit decreasing: documents, the longest first, go into the first sequence that has room. Documents of one
    length are placed together: in order, each sequence takes as many of them as it has room for.
    """
    given = as_examples(examples)
    longest_first = np.argsort(-given.lengths, kind="stable")
    lengths, counts = np.unique(-given.lengths, return_counts=True)
    room = np.full(len(given), max_length)
    owners = np.empty(len(given), np.int64)
    used = placed = 0
    for length, count in zip((-lengths).tolist(), counts.tolist(), strict=True):
        fitting = np.flatnonzero(room[:used] >= length)
        new = np.arange(used, used + count)  # as many as there can be
        sequences = np.concatenate((fitting, new))
        takes = np.maximum(room[sequences] // length, sequences >= used)
        chosen = np.repeat(sequences, np.diff(np.minimum(np.cumsum(takes), count), prepend=0))
        owners[placed : placed + count] = chosen
        room[: len(given)] -= length * np.bincount(chosen, minlength=len(given))
        used, placed = max(used, int(chosen[-1]) + 1), placed + count
    by_owner = np.argsort(owners, kind="stable")
    return PackedExamples(given, longest_first[by_owner], np.bincount(owners, minlength=used))


def _join_examples(members: Sequence[TrainingExample]) -> TrainingExample:
    """Return one sequence; the first token of a document has no label, because its context is another document."""
    ids = [token for member in members for token in member.input_ids]
    labels = [label for member in members for label in (IGNORED_LABEL, *member.labels[1:])]
    return TrainingExample(ids, labels, tuple(len(member.input_ids) for member in members) if len(members) > 1 else ())


def keeps_documents_apart(architecture: str) -> bool:
    """Return whether *architecture* (`model_type` of a config) is known to keep packed documents apart."""
    return architecture in ISOLATING_ARCHITECTURES


def check_packing_support(architecture: str) -> None:
    """Raise BenchError unless *architecture* (`model_type` of a config) is known to keep packed documents apart."""
    if not keeps_documents_apart(architecture):
        raise BenchError(
            f"It is not known whether {architecture} keeps the documents of a packed sequence apart.",
            f"Train it without `packing`; it is known of {', '.join(sorted(ISOLATING_ARCHITECTURES))}.",
        )
