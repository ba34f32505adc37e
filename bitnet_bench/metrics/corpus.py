"""What sacrebleu's corpus metrics share: their inputs, and a vectorised bootstrap over their statistics."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from bitnet_bench.records import Example
from bitnet_bench.statistics import resampled_counts


def outputs_and_references(examples: Sequence[Example]) -> tuple[list[str], list[list[str]]]:
    """Return (outputs, reference streams) in NFC; a row with fewer references repeats its first."""
    width = max(len(example.references) for example in examples)
    outputs = [unicodedata.normalize("NFC", example.output) for example in examples]
    streams = [
        [unicodedata.normalize("NFC", e.references[i] if i < len(e.references) else e.references[0]) for e in examples]
        for i in range(width)
    ]
    return outputs, streams


def corpus_stderr(scorer: Any, examples: Sequence[Example]) -> float | None:
    """Return the bootstrap standard error of a sacrebleu metric; None below two examples."""
    if len(examples) < 2:
        return None
    statistics = np.array(scorer._extract_corpus_statistics(*outputs_and_references(examples)))
    sums = resampled_counts(len(examples)) @ statistics
    return float(np.std([scorer._compute_score_from_stats(list(row)).score for row in sums], ddof=1))
